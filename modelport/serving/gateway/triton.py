"""Inference over gRPC, asynchronously, at one replica after the other."""

import itertools
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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


@dataclass
class _Client:
    """The connection to one replica."""

    grpc: Any
    in_use: int = 0
    leaving: bool = False
    """Nothing new is sent to it, and it is closed when its last answer has come."""


class Inference:
    """Inference at any of several Tritons: one gRPC connection pins one replica, so there is one to each."""

    def __init__(self) -> None:
        """Make it inside the event loop that will use it. Connections are made when they are first needed."""
        self._clients: dict[str, _Client] = {}
        self._turn = itertools.count()

    async def keep(self, there: Collection[str]) -> None:
        """Give up the connections to all Tritons but these (host:port); answers under way are still waited for."""
        for url in self._clients.keys() - set(there):
            client = self._clients.pop(url)
            client.leaving = True
            await self._close_unused(client)

    async def close(self) -> None:
        """Give up every connection."""
        await self.keep(())

    async def infer(
        self, inputs: Sequence[Any], *, at: Mapping[str, str], request_id: str, seconds: float
    ) -> tuple[str, dict[str, NDArray[Any]]]:
        """Outputs of a release by name, from the first replica in turn that has it; and which that was, host:port.

        Args:
            inputs: made by `tensors`.
            at: Triton's name of the release, by host:port of the Tritons that have it.
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
        urls = list(at)
        first = next(self._turn) % max(1, len(urls))
        for url in [*urls[first:], *urls[:first]]:
            name = at[url]
            left = deadline - time.monotonic()
            try:
                async with self._client(url) as client:
                    result = await client.infer(name, inputs, request_id=request_id, client_timeout=left)
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
                return url, outputs_of(result)
        raise failure

    async def is_ready(self, name: str, at: Sequence[str]) -> bool:
        """Whether any of these replicas answers for this model now."""
        for url in at:
            try:
                async with self._client(url) as client:
                    if await client.is_model_ready(name, client_timeout=_PROBE_SECONDS):
                        return True
            except InferenceServerException:
                continue  # that replica is away; the answer is about whether another is there
        return False

    @asynccontextmanager
    async def _client(self, url: str) -> AsyncGenerator[Any]:
        if url not in self._clients:
            self._clients[url] = _Client(_grpc.InferenceServerClient(url, channel_args=CHANNEL_OPTIONS))
        client = self._clients[url]
        client.in_use += 1
        try:
            yield client.grpc
        finally:
            client.in_use -= 1
            await self._close_unused(client)

    async def _close_unused(self, client: _Client) -> None:
        if client.leaving and not client.in_use:
            await client.grpc.close()


def tensors(inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Inputs as they go over the wire; copies, so that it is best called off the event loop."""
    return [to_tensor(name, array) for name, array in inputs.items()]
