"""A port on this machine that leads to whichever pod of a Service is ready, for as long as the relay is open.

The port is ours and stays: what comes and goes behind it are tunnels to pods. A connection belongs to one pod and ends
with it, as it would inside of the cluster; the next one goes to a pod that is there.
"""

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, Self, TypeAlias

from modelport.errors import BadInput, ModelportError, Unavailable

Address: TypeAlias = tuple[str, int]

_FRESH_S = 1.0
_PAUSE_S = 0.2
_CHUNK = 64 * 1024
_BACKLOG = 512
"""More than a load test has users."""


class Tunnel(Protocol):
    """A way to one pod."""

    address: Address
    """On this machine."""

    def alive(self) -> bool:
        """Whether connections can still be made."""
        ...

    def close(self) -> None:
        """Make no more of them."""
        ...


class PodRoute:
    """Keeps a tunnel to one ready pod of a Service, and another when that pod is leaving or its tunnel has ended.

    Args:
        name: of the Service, for messages.
        ready: names of the pods that take connections now.
        open_tunnel: makes a tunnel to the pod of this name.
    """

    def __init__(self, name: str, ready: Callable[[], Sequence[str]], open_tunnel: Callable[[str], Tunnel]) -> None:
        self._name = name
        self._ready = ready
        self._open = open_tunnel
        self._lock = threading.Lock()
        self._tunnels: dict[str, Tunnel] = {}
        self._pods: Sequence[str] = ()
        self._looked = 0.0
        self._current: str | None = None

    def address(self) -> Address:
        """Where a ready pod can be reached now.

        Raises:
            Unavailable: no pod is ready, or none can be reached.
        """
        with self._lock:
            if not self._pods or time.monotonic() - self._looked > _FRESH_S:
                self._pods = self._ready()
                self._looked = time.monotonic()
            for pod, tunnel in list(self._tunnels.items()):
                if not tunnel.alive():
                    del self._tunnels[pod]
                    tunnel.close()
            if not self._pods:
                raise Unavailable(f"no pod of {self._name} is ready")
            # The one that was there first, so that a client stays with its pod.
            order = sorted(self._pods, key=lambda pod: (pod != self._current, pod not in self._tunnels, pod))
            failure: ModelportError | None = None
            for pod in order:
                try:
                    if pod not in self._tunnels:
                        self._tunnels[pod] = self._open(pod)
                except ModelportError as error:
                    failure = error
                    continue
                self._current = pod
                return self._tunnels[pod].address
            assert failure is not None
            raise failure

    def lost(self, address: Address) -> None:
        """Look anew: who was asked there did not answer. Returns at once, also while a tunnel is being opened.

        Without the lock, a look that is under way may pass over this; the next connection then says it again.
        """
        self._looked = 0.0
        tunnel = self._tunnels.get(self._current or "")
        if tunnel is not None and tunnel.address == address:
            self._current = None

    def close(self) -> None:
        """Close every tunnel."""
        with self._lock:
            for tunnel in self._tunnels.values():
                tunnel.close()
            self._tunnels.clear()
            self._current = None


class Route(Protocol):
    """Where connections go; see `PodRoute`."""

    def address(self) -> Address:
        """See `PodRoute.address`."""
        ...

    def lost(self, address: Address) -> None:
        """See `PodRoute.lost`."""
        ...

    def close(self) -> None:
        """See `PodRoute.close`."""
        ...


class Relays:
    """Ports on 127.0.0.1, each with its route; from entering the context until leaving it.

    Args:
        tell: takes a line for people when connections cannot be made, and when they can again.
        patience: seconds that a connection waits for a pod. After that, others fail at once until there is one again.
    """

    def __init__(self, tell: Callable[[str], None], patience: float = 20.0) -> None:
        self._tell = tell
        self._patience = patience
        self._routes: list[Route] = []
        self._servers: list[asyncio.Server] = []
        self._troubled: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for route in self._routes:
            route.close()

    def open(self, name: str, route: Route, port: int = 0) -> int:
        """Open a port that leads to `route`; its number.

        Args:
            name: of the service, for messages.
            route: where connections go.
            port: wish; 0 takes a free one.

        Raises:
            BadInput: the port is in use.
        """
        self._routes.append(route)
        try:
            return asyncio.run_coroutine_threadsafe(self._listen(name, route, port), self._loop).result()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise BadInput(
                f"port {port} of this machine cannot be had: {error.strerror}",
                key=f"--port {name}",
                remedy="leave --port away to take a free one",
            ) from None

    async def _listen(self, name: str, route: Route, port: int) -> int:
        turn = asyncio.Lock()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._serve(name, route, turn, reader, writer)
            except (OSError, asyncio.CancelledError):
                # Either side hung up, and the other is closed below; or we stop, which asyncio would tell of aloud.
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=_BACKLOG)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _serve(
        self,
        name: str,
        route: Route,
        turn: asyncio.Lock,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            patience = 0.0 if name in self._troubled else self._patience
            there, to_there, address = await self._connected(route, turn, patience)
        except ModelportError as error:
            self._trouble(name, error.message)
            return
        self._trouble(name, "")
        try:
            answers = asyncio.ensure_future(_pump(there, writer))
            asks = asyncio.ensure_future(_pump(reader, to_there))
            try:
                if await answers == 0:
                    # A pod that has gone leaves a tunnel that takes connections and says nothing.
                    route.lost(address)
            finally:
                asks.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await asks
        finally:
            to_there.close()

    async def _connected(
        self, route: Route, turn: asyncio.Lock, patience: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Address]:
        deadline = time.monotonic() + patience
        while True:
            try:
                # One thread for each route: those who wait for a tunnel would take the threads that others need.
                async with turn:
                    address = await asyncio.to_thread(route.address)
                try:
                    return *(await asyncio.open_connection(*address)), address
                except OSError as error:
                    route.lost(address)
                    raise Unavailable(f"its pod does not answer: {error}") from None
            except ModelportError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)

    def _trouble(self, name: str, what: str) -> None:
        """Tell people once that connections fail, and once that they do not any more."""
        if what and name not in self._troubled:
            self._troubled.add(name)
            self._tell(f"{name}: {what}")
        elif not what and name in self._troubled:
            self._troubled.discard(name)
            self._tell(f"{name}: is there again")

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> int:
    """Copy until the end; how many bytes there were. The end is passed on, since either side may go on alone."""
    count = 0
    try:
        while data := await source.read(_CHUNK):
            count += len(data)
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()
    except OSError:
        target.close()
    return count
