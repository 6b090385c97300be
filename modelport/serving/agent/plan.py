"""What to do next for one model: a pure function of what is wanted, remembered and seen.

The order is the safe one: a release is brought up and checked beside the serving one, then the alias moves, then, after
a grace period, what nobody needs is removed. Nothing here touches Triton or a disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelport.serving.agent.version import Version


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

    serving: Version | None = None
    """What was switched to last: the good one to come back to."""
    aliased: Version | None = None
    """What this process has pointed the alias at; None until it did."""
    verified: Mapping[Version, Verified] = field(default_factory=dict[Version, Verified])
    refused: Mapping[Version, str] = field(default_factory=dict[Version, str])
    """Reasons. A refused version is not tried again until another one was desired."""
    not_before: Mapping[Version, float] = field(default_factory=dict[Version, float])
    """Versions whose last try failed for a passing reason, and when to try again (seconds of a monotonic clock)."""
    surplus_since: Mapping[str, float] = field(default_factory=dict[str, float])
    """Triton names that nobody needs, and since when."""


@dataclass(frozen=True)
class Seen:
    """What was observed just now."""

    desired: Version | None
    """What to serve; None when nothing is desired or it is not known. Absence never takes a model down."""
    alias_ready: bool
    ready: frozenset[str]
    """Triton names of this model's releases and steps that answer."""
    present: frozenset[str]
    """Folders of this model's releases and steps in the model repository."""


@dataclass(frozen=True)
class Forget:
    """Triton has lost these releases (it was restarted): they must be brought up again."""

    versions: frozenset[Version]


@dataclass(frozen=True)
class Bring:
    """Fetch, verify, load and replay a release beside what is serving."""

    version: Version


@dataclass(frozen=True)
class Switch:
    """Point the alias at a verified release."""

    version: Version


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

    def due(version: Version) -> bool:
        return version not in memory.refused and now >= memory.not_before.get(version, now)

    lost = frozenset(version for version, release in memory.verified.items() if not release.needs <= seen.ready)
    if lost:
        return Forget(lost)
    target = next((v for v in (seen.desired, memory.serving) if v is not None and v in memory.verified), None)
    if target is not None and (memory.aliased != target or not seen.alias_ready) and due(target):
        return Switch(target)
    # The last good release first: it is here already, and the desired one may take a while or be bad.
    for version in (memory.serving, seen.desired):
        if version is not None and version not in memory.verified and due(version):
            return Bring(version)
    expired = frozenset(name for name, since in memory.surplus_since.items() if now - since >= grace)
    return Remove(expired) if expired else None


def surplus(memory: Memory, seen: Seen) -> frozenset[str]:
    """Names in Triton or its repository that no release to keep needs.

    Until the release to come back to is up again, its steps are not known and so nothing counts as surplus.
    """
    keep = {version for version in (memory.serving, seen.desired) if version is not None}
    if any(version not in memory.verified and version not in memory.refused for version in keep):
        return frozenset()
    needed = frozenset[str]().union(*(memory.verified[each].needs for each in keep if each in memory.verified))
    return (seen.ready | seen.present) - needed
