"""Promotion: gate, promotion log, desired version, and their mirror in MLflow. No torch, and no folder's code."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelport.promotion.evidence import Evidence, GateRules
    from modelport.promotion.gating import gate
    from modelport.promotion.log import Action, LogEntry, PromotionLog, desired, logged_models, read_log
    from modelport.promotion.overview import Status, VersionRow, status, versions
    from modelport.promotion.pins import Pins, read_pins
    from modelport.promotion.promoting import Changed, promote, rollback
    from modelport.promotion.retention import Collected, Garbage, collect_garbage

_HOMES = {
    "Action": "log",
    "Changed": "promoting",
    "Collected": "retention",
    "Evidence": "evidence",
    "Garbage": "retention",
    "GateRules": "evidence",
    "LogEntry": "log",
    "Pins": "pins",
    "PromotionLog": "log",
    "Status": "overview",
    "VersionRow": "overview",
    "collect_garbage": "retention",
    "desired": "log",
    "gate": "gating",
    "logged_models": "log",
    "promote": "promoting",
    "read_log": "log",
    "read_pins": "pins",
    "rollback": "promoting",
    "status": "overview",
    "versions": "overview",
}

__all__ = [
    "Action",
    "Changed",
    "Collected",
    "Evidence",
    "Garbage",
    "GateRules",
    "LogEntry",
    "Pins",
    "PromotionLog",
    "Status",
    "VersionRow",
    "collect_garbage",
    "desired",
    "gate",
    "logged_models",
    "promote",
    "read_log",
    "read_pins",
    "rollback",
    "status",
    "versions",
]


def __getattr__(name: str) -> Any:
    # The gate's process is a module of this package: importing the package must bring nothing along.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
