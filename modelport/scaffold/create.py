"""Write a new model folder: whole, or not at all, and nothing beside it."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from modelport.contract import ModelFolder, Task, check
from modelport.errors import BadInput, ModelportError
from modelport.scaffold import sample
from modelport.scaffold.given import classes_of
from modelport.scaffold.names import check_classes, check_name
from modelport.scaffold.rendering import rendered

DEFAULT_CLASSES: dict[Task, tuple[str, ...]] = {
    Task.SEGMENT: ("background", "object"),
    Task.DETECT: ("object",),
    Task.CLASSIFY: ("negative", "positive"),
}
"""Where neither classes nor data are given; they are changed in model.yaml and in the sample."""


def create(
    root: Path,
    name: str,
    task: Task,
    classes: Sequence[str] | None = None,
    data: Path | None = None,
    *,
    owner: str,
    licence: str | None = None,
) -> Path:
    """Write ``models/<name>`` under a project's root.

    Args:
        root: Folder that holds ``models/``.
        name: Of the model and its folder.
        task: What it answers.
        classes: Names in order of ids; a segmentation gets its background in front.
        data: Dataset, folder or zip, that the names are read from where `classes` is None. It is not copied.
        owner: Who answers for the model.
        licence: SPDX expression; by default the one of what the model is made with, or nobody else's use.

    Returns:
        The folder.

    Raises:
        BadInput: a name cannot be used, or the folder is there already. Nothing was written.
    """
    check_name(name)
    target = root / "models" / name
    if os.path.lexists(target):
        raise _exists(target)
    source = "--classes"
    if classes is None and data is not None:
        classes, source = classes_of(data, task), str(data)
    labels = check_classes(DEFAULT_CLASSES[task] if classes is None else classes, task, source)
    example = sample.files(task, labels)
    files = {f"sample/{path}": content for path, content in example.items()}
    texts = rendered(name, task, labels, owner, licence or _default_license(task))
    files |= {path: text.encode() for path, text in texts.items()}
    # Hidden, so that nobody takes it for a model; beside its place, so that it can be renamed there in one step.
    workshop = Path(tempfile.mkdtemp(prefix=".new-", dir=root / "models"))
    try:
        made = workshop / name
        for path, content in files.items():
            file = made / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        problems = check(ModelFolder(made))
        if problems:
            first = problems[0]
            raise ModelportError(f"what was written does not keep the contract: {first.message}", key=first.key)
        try:
            made.rename(target)
        except OSError:
            if os.path.lexists(target):
                raise _exists(target) from None  # somebody else was faster
            raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return target


def _default_license(task: Task) -> str:
    """Licence of a model that nobody has chosen one for, as an SPDX expression."""
    # Ultralytics' YOLO is under AGPL-3.0, and so is what is made with it.
    return "AGPL-3.0-only" if task is Task.DETECT else "LicenseRef-Proprietary"


def _exists(target: Path) -> BadInput:
    return BadInput("is there already; nothing was written", file=target, remedy="choose another name, or remove it")
