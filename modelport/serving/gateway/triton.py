"""Inference over gRPC, asynchronously, at one replica after the other."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tritonclient.grpc.aio as grpcclient  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException  # pyright: ignore[reportMissingTypeStubs]

from modelport.errors import ModelportError, Unavailable
from modelport.serving.client import CHANNEL_OPTIONS, UnknownModel, explained, outputs_of, to_tensor

_grpc: Any = grpcclient
_PROBE_SECONDS = 1.0


class DeadlineExceeded(ModelportError):
    """The inference took longer than it may."""


class Inference:
    """Triton's replicas, taken in turn: one gRPC connection pins one replica, so there is one to each."""

    def __init__(self, urls: Sequence[str]) -> None:
        """`urls` are host:port of each replica's gRPC. Make it inside the event loop that will use it."""
        self._clients: dict[str, Any] = {
            url: _grpc.InferenceServerClient(url, channel_args=CHANNEL_OPTIONS) for url in urls
        }
        self._turn = itertools.count()

    async def close(self) -> None:
        """Give up the connections."""
        for client in self._clients.values():
            await client.close()

    async def infer(
        self, name: str, inputs: Sequence[Any], *, request_id: str, seconds: float
    ) -> dict[str, NDArray[Any]]:
        """Outputs of a release by name, from the first replica in turn that has it.

        Args:
            name: Triton's name of the release.
            inputs: made by `tensors`.
            request_id: appears in Triton's log.
            seconds: all that may be spent.

        Raises:
            UnknownModel: no replica that answers has it.
            Unavailable: no replica answers.
            DeadlineExceeded: it took too long.
            TritonRefused: the model failed on this input.
        """
        deadline = time.monotonic() + seconds
        failure: ModelportError = Unavailable("there is no Triton to ask")
        urls = list(self._clients)
        first = next(self._turn) % max(1, len(urls))
        for url in urls[first:] + urls[:first]:
            left = deadline - time.monotonic()
            try:
                result = await self._clients[url].infer(name, inputs, request_id=request_id, client_timeout=left)
            except InferenceServerException as error:
                status: Any = error.status()
                if status == "StatusCode.DEADLINE_EXCEEDED":
                    raise DeadlineExceeded(f"{name} did not answer within {seconds:g} s") from None
                problem = explained(error, f"Triton at {url}", f"answer at {name}")
                if not isinstance(problem, (UnknownModel, Unavailable)):
                    raise problem from None
                # "It has no such release" says more than "one of them is away".
                failure = failure if isinstance(failure, UnknownModel) else problem
            else:
                answered = result.get_response().model_name
                if answered != name:
                    raise Unavailable(f"Triton answered for {answered!r} when asked for {name!r}")
                return outputs_of(result)
        raise failure

    async def is_ready(self, name: str) -> bool:
        """Whether any replica answers for this model now."""
        for client in self._clients.values():
            try:
                if await client.is_model_ready(name, client_timeout=_PROBE_SECONDS):
                    return True
            except InferenceServerException:
                continue  # that replica is away; the answer is about whether another is there
        return False


def tensors(inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Inputs as they go over the wire; copies, so that it is best called off the event loop."""
    return [to_tensor(name, array) for name, array in inputs.items()]
