"""What a rule is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from policy.resources import Resource

Check: TypeAlias = Callable[[Sequence[Resource]], Iterable[tuple[Resource, str]]]
"""What is wrong with which of these resources, and what would be right."""


class Level(StrEnum):
    """What happens when a rule is broken."""

    MANDATORY = "mandatory"
    """The update is refused."""
    ADVISORY = "advisory"
    """It is said."""


@dataclass(frozen=True)
class Violation:
    """A rule that a resource breaks."""

    rule: str
    resource: Resource
    message: str
    """Where in the resource, what is wrong, and what would be right."""

    def __str__(self) -> str:
        return f"{self.rule}: {self.resource.urn or self.resource.name}: {self.message}"


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    level: Level
    description: str
    check: Check
    whole_stack: bool = False
    """Whether a resource is judged by others too, so that it can only be done when all are known."""


def alone(check: Callable[[Resource], Iterable[str]]) -> Check:
    """A check of resources, each by itself."""

    def checked(resources: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
        return ((resource, message) for resource in resources for message in check(resource))

    return checked


def among(check: Callable[[Resource, Sequence[Resource]], Iterable[str]]) -> Check:
    """A check of resources, each in view of all."""

    def checked(resources: Sequence[Resource]) -> Iterator[tuple[Resource, str]]:
        return ((resource, message) for resource in resources for message in check(resource, resources))

    return checked
