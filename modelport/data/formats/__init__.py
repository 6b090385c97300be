"""How the examples of a task lie on disk, and how their truth is read: one module per task, all of one protocol."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from modelport.contract import Task
from modelport.data.formats.classify import Classification
from modelport.data.formats.detect import Detection
from modelport.data.formats.segment import Segmentation
from modelport.data.manifest import FileEntry, Item
from modelport.errors import BadInput


class Format(Protocol):
    """A task's dataset on disk. `classes` are the names of model.yaml's classes, in order of their ids."""

    def scan(self, folder: Path, root: Path, classes: Sequence[str]) -> tuple[list[Item], tuple[str, ...]]:
        """Examples under `folder` by name, each its own group, with the hashes of their files; and remarks.

        Paths are relative to `root`.

        Raises:
            BadInput: naming the file or folder that is missing, superfluous or in another format.
        """
        ...

    def agree(self, items: Sequence[Item], read: Callable[[FileEntry], bytes], classes: Sequence[str]) -> None:
        """See that the classes that these examples name are those of model.yaml.

        Raises:
            BadInput: naming both sides.
        """
        ...

    def check_named(self, items: Sequence[Item], classes: Sequence[str]) -> None:
        """See that these examples say which class is meant without model.yaml's order, as is wanted on S3.

        Raises:
            BadInput: they do not.
        """
        ...

    def problem(self, item: Item, root: Path, classes: Sequence[str]) -> BadInput | None:
        """What is wrong with an example whose files lie under `root`, all of them decoded; None if nothing is."""
        ...

    def truth(self, item: Item, read: Callable[[FileEntry], bytes], classes: Sequence[str]) -> NDArray[Any]:
        """What is to be answered about an example's image, as `modelport.data.Split.target` describes it.

        Raises:
            BadInput: a file cannot be decoded.
        """
        ...


FORMATS: Mapping[Task, Format] = {
    Task.SEGMENT: Segmentation(),
    Task.DETECT: Detection(),
    Task.CLASSIFY: Classification(),
}

HELDOUT_FOLDERS = ("validation", "valid", "val")
"""Names of the folder beside ``train/`` that is held out, where a dataset brings one."""


def check(task: Task, items: Sequence[Item], root: Path, classes: Sequence[str]) -> None:
    """Decode every file once, so that a damaged one is told now and not after hours of training.

    Raises:
        BadInput: naming the first file by name, and how many others there are.
    """
    form = FORMATS[task]

    def problem_of(item: Item) -> BadInput | None:
        return form.problem(item, root, classes)

    with ThreadPoolExecutor(max_workers=4) as pool:
        problems = [problem for problem in pool.map(problem_of, items) if problem is not None]
    if problems:
        first, others = problems[0], len(problems) - 1
        more = f" ({others} more such file{'s' if others > 1 else ''})" if others else ""
        raise BadInput(first.message + more, file=first.file, line=first.line, key=first.key, remedy=first.remedy)
