"""Which examples must not be divided between splits, because they show the same patient, road or picture.

``groups.csv`` lies in the dataset's folder and has a line for each example: its id (the image's name without suffix; in
a classification CLASS/NAME) or the image's file name, and its group. What it says is taken whole or refused: a line
that is passed over would have a patient on both sides in silence.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from modelport.data.manifest import Item
from modelport.errors import BadInput

GROUPS_FILE = "groups.csv"
_PATTERN_KEY = "data.group_pattern"


def read_groups(root: Path, images: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """What ``groups.csv`` in a dataset's folder says: group by id; nothing where there is no such file.

    Args:
        root: the dataset's folder.
        images: id and file of every example, whatever its split.

    Raises:
        BadInput: it lies elsewhere in the dataset, is no table, lacks a column or a value, names an image that is not
            there, or one image twice with two groups.
    """
    for stray in sorted(root.glob(f"*/{GROUPS_FILE}")):
        raise BadInput(
            "is not read there: one file speaks of the whole dataset", file=stray, remedy=f"move it into {root}"
        )
    file = root / GROUPS_FILE
    if not file.is_file():
        return {}
    names = [(item, f"{item}{path.suffix}") for item, path in images]
    # Of two that are called alike, an id goes before a file's name.
    ids = {name: item for item, name in names} | {item: item for item, _ in names}
    said: dict[str, str] = {}
    for line, row in _rows(file):
        name, group = row["id"], row["group"]
        if not name or not group:
            raise BadInput("is empty", file=file, line=line, key="group" if name else "id", remedy="fill it in")
        if name not in ids:
            raise BadInput(
                f"there is no image {name!r}; an image of this dataset is called {min(item for item, _ in names)!r}",
                file=file,
                line=line,
                key="id",
                remedy="write the image's name without its folder (in a classification CLASS/NAME), or remove the line",
            )
        if said.setdefault(ids[name], group) != group:
            raise BadInput(
                f"{ids[name]!r} is in group {said[ids[name]]!r} already",
                file=file,
                line=line,
                key="group",
                remedy="keep one of the two lines",
            )
    return said


def require_groups(root: Path, said: Mapping[str, str], ids: Iterable[str], pattern: str | None) -> None:
    """See that ``groups.csv``, where there is one and no pattern speaks of the others, names every example.

    Raises:
        BadInput: it does not: whether such an example belongs to a group is not known.
    """
    missing = sorted(set(ids) - set(said))
    if missing and pattern is None and (root / GROUPS_FILE).is_file():
        raise BadInput(
            f"has no line for {len(missing)} of the examples, such as {missing[0]!r}",
            file=root / GROUPS_FILE,
            remedy=f"add them; one that belongs to no other is a group alone: {missing[0]},{missing[0]}",
        )


def grouped(items: Sequence[Item], root: Path, said: Mapping[str, str], pattern: str | None) -> list[Item]:
    """The examples with their groups: of `said`, by id, else of the pattern, else their own.

    Groups of examples that share an image, byte by byte, are one; only what is said stands as it is.

    Raises:
        BadInput: a name does not match the pattern.
    """
    expression = _compiled(pattern)
    groups = [said[item.id] if item.id in said else _of_name(item, expression, root) for item in items]
    named = set(said.values())
    one = _united(items, groups)

    def final(item: Item, group: str) -> str:
        if item.id in said:
            return group
        members = one[group]
        return min(members & named or members)

    return [item.model_copy(update={"group": final(item, group)}) for item, group in zip(items, groups, strict=True)]


def groups_by_pattern(items: Sequence[Item], pattern: str) -> list[str]:
    """The pattern's group of each example; where it finds none, the group that the example has.

    Raises:
        BadInput: it finds none in any of them, and nothing else gave them groups.
    """
    expression = _compiled(pattern)
    assert expression is not None
    matches = [expression.search(item.id) for item in items]
    found = [match[1] if match is not None else None for match in matches]
    if not any(found) and all(item.group == item.id for item in items):
        raise BadInput(
            f"{pattern!r} finds a group in none of {len(items)} examples, such as {items[0].id!r}",
            key=_PATTERN_KEY,
            remedy="change the pattern in model.yaml, or push the dataset again",
        )
    return [group or item.group for item, group in zip(items, found, strict=True)]


def are_declared(root: Path, pattern: str | None) -> bool:
    """Whether groups are more than the examples themselves."""
    return pattern is not None or (root / GROUPS_FILE).is_file()


def _united(items: Sequence[Item], groups: Sequence[str]) -> Mapping[str, set[str]]:
    """For each group, all the groups that are one with it."""
    members = {group: {group} for group in groups}
    first: dict[str, str] = {}
    for item, group in zip(items, groups, strict=True):
        other = first.setdefault(item.files["image"].sha256, group)
        if members[other] is not members[group]:
            members[other] |= members[group]
            for joined in members[group]:
                members[joined] = members[other]
    return members


def _of_name(item: Item, expression: "re.Pattern[str] | None", root: Path) -> str:
    if expression is None:
        return item.id
    found = expression.search(item.id)
    if found is None or not found[1]:
        raise BadInput(
            f"is called {item.id!r}, in which {expression.pattern!r} finds no group",
            file=root / item.files["image"].path,
            key=_PATTERN_KEY,
            remedy=f"rename it, change the pattern in model.yaml, or give it a line in {GROUPS_FILE}",
        )
    return found[1]


def _compiled(pattern: str | None) -> "re.Pattern[str] | None":
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise BadInput(f"{pattern!r} is no regular expression: {error}", key=_PATTERN_KEY) from None
    if expression.groups != 1:
        raise BadInput(
            f"{pattern!r} has {expression.groups} groups in parentheses", key=_PATTERN_KEY, remedy="write exactly one"
        )
    return expression


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Lines of the table, with their numbers."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            if not {"id", "group"} <= set(reader.fieldnames or ()):
                raise BadInput("lacks the columns id and group", file=file, line=1, remedy="begin it with `id,group`")
            return [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(
            f"is no table of comma-separated values: {error}", file=file, remedy="save it as CSV in UTF-8"
        ) from None
