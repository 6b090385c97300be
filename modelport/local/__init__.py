"""The platform on one machine: object store, MLflow, Triton, agent and gateway as supervised processes."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelport.local.logbook import logs
    from modelport.local.platform import down, up
    from modelport.local.watch import Health, ServiceStatus, status

__all__ = ["Health", "ServiceStatus", "down", "logs", "status", "up"]


_HOMES = {
    "Health": "watch",
    "ServiceStatus": "watch",
    "down": "platform",
    "logs": "logbook",
    "status": "watch",
    "up": "platform",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"modelport.local.{_HOMES[name]}"), name)
