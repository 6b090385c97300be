"""How much a gateway works on at once, and what becomes of those who come while it does."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from prometheus_client import Gauge

from modelport.serving.gateway.metrics import GatewayMetrics
from modelport.serving.gateway.problems import ProblemError, Reason
from modelport.serving.gateway.settings import GatewaySettings


class Admission:
    """Places and pixels for predictions, and a queue before them that is bounded in length and in time.

    A release that is being loaded takes processor time from the one that serves: for a second or two requests come
    faster than they are answered. They wait; only what waits too long, or would make the queue too long, is told to
    come back. Of a request that waits for a place no more is read than the server buffers (64 KiB), and what waits for
    pixels is not decoded yet, so that memory stays bounded.
    """

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self._in_flight = metrics.in_flight
        queue = (settings.max_queued, settings.queue_seconds, metrics.queued)
        self._places = _Allowance("predictions", settings.max_in_flight, *queue)
        self._pixels = _Allowance("pixels", settings.max_pixels_in_flight, *queue)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """A place for one prediction.

        Raises:
            ProblemError: none came free in time, or too many wait already.
        """
        async with self._places.take(1):
            self._in_flight.inc()
            try:
                yield
            finally:
                self._in_flight.dec()

    def pixels(self, count: int) -> AbstractAsyncContextManager[None]:
        """Room for an image of so many pixels; one that is larger than all the room gets it alone.

        Raises:
            ProblemError: it did not come free in time, or too many wait already.
        """
        return self._pixels.take(count)


class _Allowance:
    """A number that is shared out in the order of arrival: nobody overtakes one who waits for much."""

    def __init__(self, what: str, total: int, max_queued: int, seconds: float, queued: Gauge) -> None:
        self._what = what
        self._total = self._free = total
        self._max_queued = max_queued
        self._seconds = seconds
        self._gauge = queued
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, amount: int) -> AsyncGenerator[None]:
        amount = min(amount, self._total)
        if self._queue or amount > self._free:
            with self._gauge.track_inprogress():
                await self._wait(amount)
        else:
            self._free -= amount
        try:
            yield
        finally:
            self._give_back(amount)

    async def _wait(self, amount: int) -> None:
        under_way = f"too much to do: {self._total} {self._what} are being worked on"
        if len(self._queue) >= self._max_queued:
            raise ProblemError(503, Reason.BUSY, f"{under_way} and {self._max_queued} requests wait", retry_after=1)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((amount, turn))
        try:
            async with asyncio.timeout(self._seconds):
                await turn
        except BaseException as error:
            granted = turn.done() and not turn.cancelled()  # in the very moment in which the wait ended
            with suppress(ValueError):
                self._queue.remove((amount, turn))
            self._give_back(amount if granted else 0)
            if isinstance(error, TimeoutError):
                message = f"{under_way}, and too few ended in {self._seconds:g} s"
                raise ProblemError(503, Reason.BUSY, message, retry_after=1) from None
            raise

    def _give_back(self, amount: int) -> None:
        self._free += amount
        while self._queue and (self._queue[0][1].done() or self._queue[0][0] <= self._free):
            wanted, turn = self._queue.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)
