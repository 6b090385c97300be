"""Which examples must not be divided between splits, because they show the same patient, road or picture."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelport.data.manifest import Item
from modelport.errors import BadInput

GROUPS_FILE = "groups.csv"
_PATTERN_KEY = "data.group_pattern"


def grouped(items: Sequence[Item], root: Path, pattern: str | None) -> list[Item]:
    """The examples with their groups: of ``groups.csv`` (columns id, group), else of the pattern, else their own.

    Groups of examples that share an image, byte by byte, are one; only what groups.csv says stands as it is.

    Raises:
        BadInput: groups.csv lacks a column, or a name does not match the pattern.
    """
    said = _read(root / GROUPS_FILE)
    expression = _compiled(pattern)
    groups = [said.get(item.id) or _of_name(item, expression, root) for item in items]
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


def _read(file: Path) -> Mapping[str, str]:
    if not file.is_file():
        return {}
    with file.open(newline="") as stream:
        rows = csv.DictReader(stream)
        if not {"id", "group"} <= set(rows.fieldnames or ()):
            raise BadInput("lacks the columns id and group", file=file, line=1, remedy="begin it with `id,group`")
        return {row["id"]: row["group"] for row in rows if row["id"] and row["group"]}
