"""Which nodes a workload may run on, as components take it."""

from typing import NotRequired, TypedDict

from components.pods import Placement


class NodePlacement(TypedDict):
    """Nodes that pods may run on."""

    node_selector: NotRequired[dict[str, str]]
    """Labels that a node must have."""
    tolerations: NotRequired[list[dict[str, str]]]
    """Taints that are no obstacle, in Kubernetes' spelling: ``key``, ``operator``, ``value``, ``effect``."""


def placement_of(args: NodePlacement | None) -> Placement:
    """The placement of a pod; anywhere when nothing is said."""
    given = args or {}
    return Placement(given.get("node_selector", {}), given.get("tolerations", ()))
