"""Which examples play which role. Pure, and by hash of the group: no order of files or random state decides."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from modelport.data.manifest import Item


def carve(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Divide into (rest, carved), whole groups at a time, with about `share` of the items carved.

    Where there are two groups or more, both parts have at least one.
    """
    by_group = _grouped(items)
    wanted = share * len(items)
    carved: set[str] = set()
    count = 0
    for group in sorted(by_group, key=lambda group: _draw("selection", seed, group)):
        if carved and count + len(by_group[group]) / 2 > wanted:
            break
        if len(carved) == len(by_group) - 1:
            break
        carved.add(group)
        count += len(by_group[group])
    return _divide(items, carved)


def carve_heldout(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Divide into (rest, held-out), whole groups at a time.

    No seed, and each group on its own: an example stays held out whatever is trained and whatever is added later, so
    that no newer training run has seen what an older release is measured on.
    """
    by_group = _grouped(items)
    drawn = sorted((_draw("heldout", 0, group), group) for group in by_group)
    carved = {group for draw, group in drawn if draw < share} or {group for _, group in drawn[:1]}
    if len(carved) == len(by_group):
        carved = set(sorted(carved)[:-1])
    return _divide(items, carved)


def carve_by_class(
    items: Sequence[Item], class_of: Callable[[Item], str], share: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Divide into (rest, carved) as `carve` does, with about `share` of each class carved.

    A class of two groups or more is in both parts.
    """
    classes = _classes(items, class_of)
    carved: set[str] = set()
    for groups in classes.values():
        wanted = share * sum(groups.values())
        count = sum(number for group, number in groups.items() if group in carved)
        for group in sorted(groups, key=lambda group: _draw("selection", seed, group)):
            if group in carved or not _spares(classes, carved, group, kept=1):
                continue
            if count and count + groups[group] / 2 > wanted:
                break
            carved.add(group)
            count += groups[group]
    return _divide(items, carved)


def carve_heldout_by_class(
    items: Sequence[Item], class_of: Callable[[Item], str], share: float
) -> tuple[list[Item], list[Item]]:
    """Divide into (rest, held-out) as `carve_heldout` does, with about `share` of each class held out.

    A class of three groups or more is held out with one at least, and keeps two: to train on and to select with.
    """
    classes = _classes(items, class_of)
    carved: set[str] = set()
    for group in sorted(_grouped(items), key=lambda group: _draw("heldout", 0, group)):
        if _draw("heldout", 0, group) < share and _spares(classes, carved, group, kept=2):
            carved.add(group)
    for groups in classes.values():
        if not carved & set(groups):
            drawn = sorted(groups, key=lambda group: _draw("heldout", 0, group))
            carved.update([group for group in drawn if _spares(classes, carved, group, kept=2)][:1])
    return _divide(items, carved)


def _classes(items: Sequence[Item], class_of: Callable[[Item], str]) -> Mapping[str, dict[str, int]]:
    """How many items each group has of each class, by class."""
    classes: dict[str, dict[str, int]] = {}
    for item in sorted(items, key=class_of):
        groups = classes.setdefault(class_of(item), {})
        groups[item.group] = groups.get(item.group, 0) + 1
    return classes


def _spares(classes: Mapping[str, Mapping[str, int]], carved: set[str], group: str, kept: int) -> bool:
    """Whether, without this group, every class that it holds examples of keeps so many groups."""
    return all(len(set(groups) - carved - {group}) >= kept for groups in classes.values() if group in groups)


def _grouped(items: Sequence[Item]) -> dict[str, list[Item]]:
    by_group: dict[str, list[Item]] = {}
    for item in items:
        by_group.setdefault(item.group, []).append(item)
    return by_group


def _divide(items: Sequence[Item], carved: set[str]) -> tuple[list[Item], list[Item]]:
    return [item for item in items if item.group not in carved], [item for item in items if item.group in carved]


def _draw(purpose: str, seed: int, group: str) -> float:
    """A number in [0, 1) that depends on nothing else."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}/{group}".encode()).digest()[:8]) / 2**64
