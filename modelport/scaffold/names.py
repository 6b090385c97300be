"""Names that a new model and its classes may have, and what to call them instead."""

import re
import unicodedata
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from modelport.contract import Task
from modelport.contract.spec import ModelName
from modelport.contract.triton_check import PIPELINE_STEPS
from modelport.errors import BadInput

BACKGROUND = "background"
"""Class 0 of a segmentation: what is none of the others."""
MAX_CLASSES = 256
_LONGEST = 40
_LEAST = {Task.SEGMENT: 2, Task.DETECT: 1, Task.CLASSIFY: 2}
SPLITS = ("train", "validation", "valid", "val")
"""Folders of a dataset's parts."""
_NOT_IN_FOLDERS = '/\\:*?"<>|'
"""What some system that a dataset is copied to refuses in the name of a folder."""


def check_name(name: str) -> None:
    """Refuse what cannot be a model's name.

    Raises:
        BadInput: with a name to use instead.
    """
    try:
        TypeAdapter(ModelName).validate_python(name)
    except ValidationError:
        raise BadInput(
            f"{name!r} cannot be the name of a model: small letters, digits and _ only, a letter first, "
            f"no _ last, {_LONGEST} characters at most",
            key="NAME",
            remedy=f"call it {suggested(name)}",
        ) from None
    if name in PIPELINE_STEPS:
        raise BadInput(
            f"{name!r} is what every model calls one of its steps", key="NAME", remedy=f"call it {name}_model, say"
        )


def suggested(name: str) -> str:
    """The nearest name that a model may have: ``Snow-Level`` becomes ``snow_level``."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()
    joined = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")
    if joined and not joined[0].isalpha():
        joined = f"model_{joined}"
    return joined[:_LONGEST].rstrip("_") or "snow_level"


def check_classes(names: Sequence[str], task: Task, source: str) -> tuple[str, ...]:
    """The label map of a new model, in order of ids; a segmentation gets its background in front.

    Args:
        names: as given.
        task: of the model.
        source: what they were read from, for messages.

    Raises:
        BadInput: there are too few or too many, one comes twice, or one cannot be used.
    """
    if task is Task.SEGMENT and BACKGROUND not in names:
        names = (BACKGROUND, *names)
    for name in names:
        problem = _problem(name, task)
        if problem:
            raise BadInput(f"class {name!r} {problem}", key=source, remedy="give it another name")
    for index, name in enumerate(names):
        # Folders whose names differ in capitals only are one folder on many laptops.
        if name.casefold() in (other.casefold() for other in names[:index]):
            raise BadInput(f"class {name!r} comes twice", key=source, remedy="name each class once")
    if task is Task.SEGMENT and names[0] != BACKGROUND:
        raise BadInput(
            f"begin with {names[0]!r}, but class 0 of a segmentation is the {BACKGROUND}",
            key=source,
            remedy=f"put {BACKGROUND} first, or leave it out: it is added",
        )
    if len(names) < _LEAST[task]:
        missing = "nothing but the background" if task is Task.SEGMENT else f"{len(names)} class"
        raise BadInput(f"{missing} leaves nothing to decide", key=source, remedy="name at least two classes")
    if len(names) > MAX_CLASSES:
        raise BadInput(f"are {len(names)} classes; {MAX_CLASSES} are the most", key=source, remedy="join some")
    return tuple(names)


def _problem(name: str, task: Task) -> str:
    if not name.strip():
        return "has no name"
    if name != name.strip():
        return "begins or ends with a space"
    if not name.isprintable():
        return "has characters that cannot be shown"
    if task is not Task.CLASSIFY:
        return ""
    # The images of a class lie in the folder of its name.
    if name in SPLITS:
        return "is what the folder of a split is called"
    if name.startswith("."):
        return "begins with a dot: such folders are passed over"
    if name.endswith("."):
        return "ends with a dot, which not every system lets a folder do"
    found = sorted(set(name) & set(_NOT_IN_FOLDERS))
    if found:
        return f"cannot be the name of a folder: it holds {' '.join(found)}"
    return "is too long for the name of a folder" if len(name.encode()) > 200 else ""
