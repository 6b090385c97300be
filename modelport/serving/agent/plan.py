"""What to do next for one model: a pure function of what is wanted, remembered and seen.

The order is the safe one: a release is brought up and checked beside the serving one, then the alias moves, then, after
a grace period, what nobody needs is removed. Nothing here touches Triton or a disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verified:
    """A release that is loaded and answered its golden files in this life of Triton."""

    name: str
    """Triton's name of the release."""
    needs: frozenset[str]
    """Every Triton name that must be loaded for it: the release and its steps."""


@dataclass(frozen=True)
class Memory:
    """What the agent knows of one model. Only `serving` outlives the process."""

    serving: str | None = None
    """Digest that was switched to last: the good one to come back to."""
    aliased: str | None = None
    """Digest that this process has pointed the alias at; None until it did."""
    verified: Mapping[str, Verified] = field(default_factory=dict[str, Verified])
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """Reasons by digest. A refused release is not tried again until another one was desired."""
    not_before: Mapping[str, float] = field(default_factory=dict[str, float])
    """Digests whose last try failed for a passing reason, and when to try again (seconds of a monotonic clock)."""
    surplus_since: Mapping[str, float] = field(default_factory=dict[str, float])
    """Triton names that nobody needs, and since when."""


@dataclass(frozen=True)
class Seen:
    """What was observed just now."""

    desired: str | None
    """Digest to serve; None when nothing is desired or it is not known. Absence never takes a model down."""
    alias_ready: bool
    ready: frozenset[str]
    """Triton names of this model's releases and steps that answer."""
    present: frozenset[str]
    """Folders of this model's releases and steps in the model repository."""


@dataclass(frozen=True)
class Forget:
    """Triton has lost these releases (it was restarted): they must be brought up again."""

    digests: frozenset[str]


@dataclass(frozen=True)
class Bring:
    """Fetch, verify, load and replay a release beside what is serving."""

    digest: str


@dataclass(frozen=True)
class Switch:
    """Point the alias at a verified release."""

    digest: str


@dataclass(frozen=True)
class Remove:
    """Unload these names and delete their folders."""

    names: frozenset[str]


Action = Forget | Bring | Switch | Remove


def plan(memory: Memory, seen: Seen, now: float, grace: float) -> Action | None:
    """The next action, or None when there is nothing to do now.

    Args:
        memory: what is known; its `surplus_since` must be current (see `surplus`).
        seen: what was observed.
        now: seconds of the clock that `memory` uses.
        grace: seconds for which a superseded release stays loaded, so that gateways have moved on.
    """

    def due(digest: str) -> bool:
        return digest not in memory.refused and now >= memory.not_before.get(digest, now)

    lost = frozenset(digest for digest, release in memory.verified.items() if not release.needs <= seen.ready)
    if lost:
        return Forget(lost)
    target = next((d for d in (seen.desired, memory.serving) if d is not None and d in memory.verified), None)
    if target is not None and (memory.aliased != target or not seen.alias_ready) and due(target):
        return Switch(target)
    # The last good release first: it is here already, and the desired one may take a while or be bad.
    for digest in (memory.serving, seen.desired):
        if digest is not None and digest not in memory.verified and due(digest):
            return Bring(digest)
    expired = frozenset(name for name, since in memory.surplus_since.items() if now - since >= grace)
    return Remove(expired) if expired else None


def surplus(memory: Memory, seen: Seen) -> frozenset[str]:
    """Names in Triton or its repository that no release to keep needs.

    Until the release to come back to is up again, its steps are not known and so nothing counts as surplus.
    """
    keep = {digest for digest in (memory.serving, seen.desired) if digest is not None}
    if any(digest not in memory.verified and digest not in memory.refused for digest in keep):
        return frozenset()
    needed = frozenset[str]().union(*(memory.verified[digest].needs for digest in keep if digest in memory.verified))
    return (seen.ready | seen.present) - needed
