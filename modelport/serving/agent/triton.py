"""Triton's model control and inference over gRPC, for the agent: every call has a deadline, every error a type."""

from collections.abc import Callable, Mapping
from typing import Any

import tritonclient.grpc as grpcclient  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException  # pyright: ignore[reportMissingTypeStubs]

from modelport.serving.client import CHANNEL_OPTIONS, explained, outputs_of, to_tensor

_CONTROL_SECONDS = 10.0
_LOAD_SECONDS = 300.0
_INFER_SECONDS = 120.0

# The library carries no types.
_grpc: Any = grpcclient


class TritonServer:
    """One Triton server, with the right to load and unload."""

    def __init__(self, url: str, admin_key: str | None) -> None:
        """`url` is host:port of gRPC; `admin_key` the value of the restricted header, None where none is wanted."""
        self._url = url
        self._headers = {"triton-grpc-protocol-admin": admin_key} if admin_key else None
        self._client: Any = _grpc.InferenceServerClient(url, channel_args=CHANNEL_OPTIONS)

    def close(self) -> None:
        """Give up the connection."""
        self._client.close()

    def ready(self) -> frozenset[str]:
        """Names of the models that answer now; raises `Unavailable` when Triton is away."""
        index = self._call(
            "list its models",
            lambda: self._client.get_model_repository_index(headers=self._headers, client_timeout=_CONTROL_SECONDS),
        )
        return frozenset(str(model.name) for model in index.models if model.state == "READY")

    def load(self, name: str) -> None:
        """Load a model and, for an ensemble, its steps; returns when it answers.

        Raises:
            Unavailable: Triton is away.
            TritonRefused: it cannot be loaded.
        """
        self._call(
            f"load {name}",
            lambda: self._client.load_model(name, headers=self._headers, client_timeout=_LOAD_SECONDS),
        )

    def unload(self, name: str, *, dependents: bool = False) -> None:
        """Unload a model, and with `dependents` the steps that no other loaded ensemble uses."""
        self._call(
            f"unload {name}",
            lambda: self._client.unload_model(
                name, headers=self._headers, unload_dependents=dependents, client_timeout=_CONTROL_SECONDS
            ),
        )

    def infer(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs of a model by name."""
        result = self._call(
            f"answer at {name}",
            lambda: self._client.infer(
                name, [to_tensor(key, array) for key, array in inputs.items()], client_timeout=_INFER_SECONDS
            ),
        )
        return outputs_of(result)

    def _call(self, action: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except InferenceServerException as error:
            raise explained(error, f"Triton at {self._url}", action) from None
