"""``modelport new``: a model folder to begin with."""

import getpass
import os
import shlex
import subprocess
from pathlib import Path

import click


@click.command()
@click.argument("name")
@click.option(
    "--task",
    type=click.Choice(["segment", "detect", "classify"]),
    required=True,
    help="segment outlines, detect puts boxes around, classify gives the whole image a class.",
)
@click.option(
    "--classes",
    help="Names of the classes with commas between, in order of ids; a segmentation's background is added. "
    "[default: what --data says, else background,object / object / negative,positive]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Your images, folder or zip: the classes are read from it. It is not copied.",
)
@click.option("--owner", help="Person or team who answers for the model. [default: git's user.name, or the login]")
@click.option(
    "--license",
    "license_",
    help="Licence of the model, an SPDX expression. [default: LicenseRef-Proprietary; for detect AGPL-3.0-only, as "
    "Ultralytics' YOLO is]",
)
def new(name: str, task: str, classes: str | None, data: Path | None, owner: str | None, license_: str | None) -> None:
    """Write the folder of a new model NAME, ready to train on generated images or your own.

    Changes no other file. The folder is written whole or not at all.
    """
    from modelport.contract import Task, find_model
    from modelport.errors import BadInput
    from modelport.project import project_root
    from modelport.scaffold import SAMPLE_EPOCHS, create

    if classes is not None and data is not None:
        # Two sources of one fact could disagree, and which one holds would be a guess.
        raise BadInput("both name the classes", key="--classes and --data", remedy="give one of them")
    root = project_root()
    names = None if classes is None else [part.strip() for part in classes.split(",")]
    folder = create(root, name, Task(task), names, data, owner=owner or _owner(root), licence=license_)
    spec = find_model(name, root).spec
    shown = os.path.relpath(folder)
    sample = shlex.quote(os.path.join(shown, "sample"))
    image = shlex.quote(os.path.join(shown, "sample", "golden", find_model(name, root).golden[0].name))
    own = shlex.quote(str(data)) if data is not None else "FOLDER"
    click.echo(f"{shown}  {task}: {', '.join(label.name for label in spec.classes)}")
    click.echo(f"""
next, on the generated images in {shown}/sample:
  modelport check {name}
  modelport local up
  modelport train {name} --data {sample} --set train.epochs={SAMPLE_EPOCHS[spec.task]}
  modelport gate {name} --data {sample}
  modelport promote {name}
  modelport predict {name} {image}
then on your own images{"" if data is not None else " in FOLDER"}:
  modelport train {name} --data {own}
  modelport gate {name} --data {own}
  modelport promote {name}
how they are laid out in folders, and what to change first: {shown}/README.md""")


def _owner(root: Path) -> str:
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "config", "user.name"], check=False, capture_output=True, text=True
        )
    except OSError:
        asked = None  # no git here
    return (asked.stdout.strip() if asked else "") or getpass.getuser()
