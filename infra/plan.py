"""What a stack comes to, before anything is made: everything that can be wrong is looked at here.

Pure, but for reading the model folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import capacity, cluster, workload
from infra.capacity import Placed
from infra.models import Model, load_models
from infra.settings import GcpSettings, Settings, complete, parse


@dataclass(frozen=True)
class Plan:
    """A stack's settings, its models, and where each of their parts goes."""

    settings: Settings
    gcp: GcpSettings | None
    models: Sequence[Model]
    placed: Sequence[Placed]

    @property
    def table(self) -> str:
        """What goes where, for people."""
        return capacity.table(self.placed)

    @property
    def untold(self) -> list[str]:
        """Owners whose alerts reach nobody; none where monitoring is off."""
        monitoring = self.settings.monitoring
        if not monitoring.enabled or "default" in monitoring.receivers:
            return []
        owners = {self.settings.owner, *(model.spec.owner for model in self.models)}
        return sorted(owners - set(monitoring.receivers))


def plan(values: Mapping[str, Any], stack: str, root: Path) -> Plan:
    """The plan of a stack.

    Args:
        values: Configuration by whole key, such as ``modelport:owner`` and ``gcp:region``.
        stack: Name of the stack, for messages.
        root: The project's folder.

    Raises:
        BadInput: a setting, a model folder, an override or a pin is wrong, or a model fits nowhere.
    """
    prefix = "modelport:"
    own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    settings, gcp = complete(parse(own, stack), values.get("gcp:project"), values.get("gcp:region"))
    models = load_models(root, settings)
    placed = capacity.place(workload.demands(models, settings), cluster.shapes(settings, gcp))
    return Plan(settings, gcp, models, placed)
