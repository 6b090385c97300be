"""Which examples play which role. Pure, and by hash of the group: no order of files or random state decides."""

import hashlib
from collections.abc import Sequence

from modelport.data.manifest import Item

HELDOUT_SHARE = 0.15
"""Share of the groups set aside where a dataset brings no held-out split of its own."""


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


def carve_heldout(items: Sequence[Item], share: float = HELDOUT_SHARE) -> tuple[list[Item], list[Item]]:
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
