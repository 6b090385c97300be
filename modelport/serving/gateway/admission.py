"""How many predictions a gateway works on, and what becomes of those that come while it does."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from modelport.serving.gateway.metrics import GatewayMetrics
from modelport.serving.gateway.problems import ProblemError, Reason
from modelport.serving.gateway.settings import GatewaySettings


class Admission:
    """Places for predictions, and a queue before them that is bounded in length and in time.

    A release that is being loaded takes processor time from the one that serves: for a second or two requests come
    faster than they are answered. They wait; only what waits too long, or would make the queue too long, is told to
    come back. Of a request that waits no more is read than the server buffers (64 KiB), so that memory stays
    bounded by the places.
    """

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._places = asyncio.Semaphore(settings.max_in_flight)
        self._queued = 0

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """A place, in the order of arrival.

        Raises:
            ProblemError: none came free in time, or too many wait already.
        """
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._metrics.in_flight.dec()
            self._places.release()

    async def _wait(self) -> None:
        limits = self._settings
        if self._queued >= limits.max_queued:
            raise _busy(f"{limits.max_in_flight} predictions are being worked on and {limits.max_queued} wait")
        self._queued += 1
        self._metrics.queued.inc()
        try:
            async with asyncio.timeout(limits.queue_seconds):
                await self._places.acquire()
        except TimeoutError:
            message = f"{limits.max_in_flight} predictions are being worked on, and none ended in "
            raise _busy(f"{message}{limits.queue_seconds:g} s") from None
        finally:
            self._queued -= 1
            self._metrics.queued.dec()


def _busy(why: str) -> ProblemError:
    return ProblemError(503, Reason.BUSY, f"too much to do: {why}", retry_after=1)
