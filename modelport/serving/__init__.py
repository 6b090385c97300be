"""Serving: the agent that makes a Triton serve the desired versions, and the gateway in front of it.

The door is light; the agent and the gateway load their libraries (tritonclient, FastAPI, pyarrow) when they are used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from modelport.serving.keys import hash_key, new_key
from modelport.serving.state import Heartbeat, LoadedRelease, ModelState, ReplicaState

if TYPE_CHECKING:
    from modelport.serving.agent.main import AgentSettings, run_agent
    from modelport.serving.agent.worker import Pace
    from modelport.serving.gateway.app import create_app
    from modelport.serving.gateway.run import run_gateway
    from modelport.serving.gateway.settings import GatewaySettings

__all__ = [
    "AgentSettings",
    "GatewaySettings",
    "Heartbeat",
    "LoadedRelease",
    "ModelState",
    "Pace",
    "ReplicaState",
    "create_app",
    "hash_key",
    "new_key",
    "run_agent",
    "run_gateway",
]

_LAZY = {
    "AgentSettings": "agent.main",
    "GatewaySettings": "gateway.settings",
    "Pace": "agent.worker",
    "create_app": "gateway.app",
    "run_agent": "agent.main",
    "run_gateway": "gateway.run",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
