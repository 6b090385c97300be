"""The texts of a new model folder, from `templates/`: what differs between two new folders is filled in here."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from modelport.contract import Task
from modelport.scaffold.sample import colors

_TEMPLATES = Path(__file__).parent / "templates"
_SUFFIX = ".tmpl"
"""Of every template, so that no tool takes it for code or configuration."""
_SHARED = "shared"
_PART = "_"
"""Files whose name begins with it are parts: the task's own words in a text that all tasks have."""

_SIZES = {Task.SEGMENT: 192, Task.DETECT: 320, Task.CLASSIFY: 128}
"""Side of the network's input in pixels: what two processor cores can learn on."""
SAMPLE_EPOCHS = {Task.SEGMENT: 24, Task.DETECT: 40, Task.CLASSIFY: 12}
"""Epochs after which the generated sample is learned: seconds, where the images of the real task take longer."""
_NAMED = 6
"""Classes that a text names before it says that there are more."""


def rendered(name: str, task: Task, classes: Sequence[str], owner: str, licence: str) -> dict[str, str]:
    """Texts by path in the folder: model.yaml, code, Triton configurations, model card.

    Args:
        name: Of the model.
        task: Which templates.
        classes: Label map in order of ids.
        owner: As model.yaml says it.
        licence: As model.yaml says it.
    """
    fields = _fields(name, task, classes, owner, licence)
    texts = _templates(_SHARED) | _templates(task.value)
    # A part may hold other parts' fields, but no parts.
    parts = {path: text for path, text in texts.items() if path.startswith(_PART)}
    fields |= {path.removeprefix(_PART): Template(text).substitute(fields).rstrip() for path, text in parts.items()}
    return {
        path.replace("NAME", name): Template(text).substitute(fields)
        for path, text in texts.items()
        if path not in parts
    }


def _fields(name: str, task: Task, classes: Sequence[str], owner: str, licence: str) -> dict[str, str]:
    size, count = _SIZES[task], len(classes)
    numbered = ", ".join(f"{number} {label}" for number, label in enumerate(classes[:_NAMED]))
    return {
        "name": name,
        "owner": yaml_text(owner),
        "license": yaml_text(licence),
        "license_words": licence,
        "license_comment": _license_comment(task, licence),
        "classes": _label_map(task, classes),
        "class_count": str(count),
        "class_numbers": numbered + (" and so on" if count > _NAMED else ""),
        "class_folders": "\n".join(f"    {label}/" for label in classes[:_NAMED])
        + ("\n    ... and one for each of the others" if count > _NAMED else ""),
        "example_id": f"{classes[0]}/0001" if task is Task.CLASSIFY else "0001",
        "metric": {Task.SEGMENT: "dice", Task.DETECT: "map50", Task.CLASSIFY: "balanced_accuracy"}[task],
        "size": str(size),
        # Above guessing by three tenths of what there is to certainty.
        "unsure": f"{1 / count + 0.3 * (1 - 1 / count):.2f}",
        "sample_epochs": str(SAMPLE_EPOCHS[task]),
        "half": str(size // 2),
        # Two classes are one decision: a single map of numbers says how much it is the second.
        "logit_maps": str(1 if count == 2 else count),
        # Places that a detector looks at: a grid for small objects, one for middling and one for large ones.
        "candidates": str(sum((size // stride) ** 2 for stride in (8, 16, 32))),
        "candidate_width": str(4 + count),
    }


def _license_comment(task: Task, licence: str) -> str:
    if task is Task.DETECT and licence.startswith("AGPL"):
        return "it is made with Ultralytics' YOLO, which passes its licence on"
    if licence == "LicenseRef-Proprietary":
        return "nobody else may use it; such as Apache-2.0 if everybody may"
    return "an SPDX expression, such as Apache-2.0"


def yaml_text(text: str) -> str:
    """A string as YAML, in quotes unless it is a plain word."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*( [A-Za-z0-9_.+-]+)*", text)
    # Words that one version of YAML or another takes for something else than a string.
    special = text.lower() in ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf")
    # A string of JSON is one of YAML.
    return text if plain and not special else json.dumps(text, ensure_ascii=False)


def _label_map(task: Task, classes: Sequence[str]) -> str:
    shown = ["#000000", *colors(len(classes) - 1)] if task is Task.SEGMENT else colors(len(classes))
    rows = zip(classes, shown, strict=True)
    return "\n".join(f'  - name: {yaml_text(label)}\n    color: "{color}"' for label, color in rows)


def _templates(folder: str) -> dict[str, str]:
    root = _TEMPLATES / folder
    found = sorted(root.rglob(f"*{_SUFFIX}"))
    return {path.relative_to(root).as_posix().removesuffix(_SUFFIX): path.read_text() for path in found}
