"""What the agent and the gateway share of Triton's client library: options of the channel, tensors, and its errors."""

from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from tritonclient.utils import (  # pyright: ignore[reportMissingTypeStubs]
    InferenceServerException,
    np_to_triton_dtype,  # pyright: ignore[reportUnknownVariableType]
)

from modelport.errors import ModelportError, Refused, Unavailable

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # gRPC's own backoff goes up to two minutes: a restarted Triton would look dead for as long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # What gRPC calls so is also the time that a connection may take to be made: too little fails on a busy machine.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # A machine's proxy settings must not catch calls to a neighbour.
    ("grpc.enable_http_proxy", 0),
]

# The library carries no types.
_grpc: Any = grpcclient


class TritonRefused(ModelportError):
    """Triton is there and would not do it: a graph or a configuration that it cannot load, a failed inference."""


class UnknownModel(TritonRefused):
    """Triton is there and has no such model loaded."""


def to_tensor(name: str, array: NDArray[Any]) -> Any:
    """An input tensor; holds a copy of the array's bytes."""
    tensor: Any = _grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor


def outputs_of(result: Any) -> dict[str, NDArray[Any]]:
    """Every output of an answer by name; read-only views of its bytes."""
    return {str(output.name): result.as_numpy(output.name) for output in result.get_response().outputs}


def explained(error: InferenceServerException, server: str, action: str) -> ModelportError:
    """A client library's error as one of ours.

    Status codes alone do not tell: Triton says "unavailable" of models that are not loaded or fail to load, and of a
    wrong admin key, where gRPC says it of a server that is away.
    """
    failure: Any = error
    status, message = str(failure.status()), str(failure.message() or "no reason given")
    if "protocol is restricted" in message:
        remedy = "the connection's triton_admin_key must be the value that the server was started with"
        return Refused(f"{server} may not be told to {action}: {message}", key="triton_admin_key", remedy=remedy)
    if "unknown model" in message or "stopped accepting" in message:
        return UnknownModel(f"{server} could not {action}: {message}")
    away = status in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")
    if away and "failed to load" not in message and "load failed" not in message:
        return Unavailable(f"{server} did not {action}: {message}", remedy="see the server's log")
    return TritonRefused(f"{server} could not {action}: {message}")
