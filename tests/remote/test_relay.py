"""A port that outlives the pods behind it; pods are servers of this machine."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from modelport.errors import BadInput, Unavailable
from modelport.remote.relay import PodRoute, Relays


class Pod:
    """A server that answers each line with its name and the line, until it is gone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._server.getsockname()
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._connections.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as stream:
            for line in stream:
                stream.write(self.name.encode() + b" " + line)
                stream.flush()
            # The client has said all; we go on.
            stream.write(b"end\n")

    def go(self) -> None:
        """End, with every connection."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Way:
    """A tunnel straight to a pod."""

    address: tuple[str, int]
    open: bool = True

    def alive(self) -> bool:
        return self.open

    def close(self) -> None:
        self.open = False


@dataclass
class Cluster:
    """Pods, which of them are ready, and the tunnels that were made."""

    pods: dict[str, Pod] = field(default_factory=dict[str, Pod])
    ready: list[str] = field(default_factory=list[str])
    tunnels: list[tuple[str, Way]] = field(default_factory=list[tuple[str, Way]])
    broken: bool = False

    def start(self, name: str) -> None:
        self.pods[name] = Pod(name)
        self.ready = [*self.ready, name]

    def stop(self, name: str) -> None:
        self.ready = [pod for pod in self.ready if pod != name]
        self.pods[name].go()

    def tunnel(self, pod: str) -> Way:
        if self.broken:
            raise Unavailable("the API server is away")
        way = Way(self.pods[pod].address)
        self.tunnels.append((pod, way))
        return way

    def route(self) -> PodRoute:
        return PodRoute("registry/store", lambda: self.ready, self.tunnel)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    for pod in made.pods.values():
        pod.go()


def ask(port: int, word: str = "hello") -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"{word}\n".encode())
        return connection.makefile().readline().strip()


def until(ask_again: Callable[[], str], expected: str) -> None:
    """A pod that has just gone may still be asked once; clients try again."""
    for _ in range(20):
        with contextlib.suppress(OSError):
            if ask_again() == expected:
                return
    pytest.fail(f"never {expected!r}")


def test_a_pod_that_goes_is_followed_by_another_behind_the_same_port(cluster: Cluster) -> None:
    said: list[str] = []
    cluster.start("one")
    with Relays(said.append) as relays:
        port = relays.open("s3", cluster.route())
        assert ask(port) == "one hello"
        cluster.start("two")
        assert ask(port) == "one hello", "a client stays with its pod while that is there"
        cluster.stop("one")
        until(lambda: ask(port), "two hello")
        assert said == []


def test_a_connection_waits_for_a_pod_that_is_to_come(cluster: Cluster) -> None:
    with Relays(lambda line: None) as relays:
        port = relays.open("s3", cluster.route())
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(ask(port)))
        asking.start()
        cluster.start("late")
        asking.join(timeout=30)
        assert answers == ["late hello"]


def test_a_tunnel_that_ended_is_made_anew(cluster: Cluster) -> None:
    cluster.start("one")
    with Relays(lambda line: None) as relays:
        port = relays.open("s3", cluster.route())
        assert ask(port) == "one hello"
        cluster.tunnels[0][1].open = False
        assert ask(port) == "one hello"
    assert [pod for pod, _ in cluster.tunnels] == ["one", "one"]
    assert not any(way.open for _, way in cluster.tunnels), "none is left"


def test_a_tunnel_that_is_slow_to_open_holds_up_no_other_service(cluster: Cluster) -> None:
    cluster.start("one")
    opening, go_on = threading.Event(), threading.Event()

    def slow(pod: str) -> Way:
        opening.set()
        assert go_on.wait(30)
        return cluster.tunnel(pod)

    stuck = PodRoute("serving/gateway", lambda: ["one"], slow)
    with Relays(lambda line: None) as relays:
        stuck_port, port = relays.open("gateway", stuck), relays.open("s3", cluster.route())
        answers: list[str] = []
        # More than there are threads for.
        asking = [threading.Thread(target=lambda: answers.append(ask(stuck_port))) for _ in range(40)]
        for each in asking:
            each.start()
        try:
            assert opening.wait(30)
            # As a connection says whose pod has just gone.
            stuck.lost(cluster.pods["one"].address)
            assert ask(port) == "one hello"
            assert answers == []
        finally:
            go_on.set()
            for each in asking:
                each.join(30)
        assert answers == ["one hello"] * 40


def test_people_are_told_once_when_it_fails_and_once_when_it_works_again(cluster: Cluster) -> None:
    said: list[str] = []
    with Relays(said.append, patience=0) as relays:
        port = relays.open("s3", cluster.route())
        assert [ask(port), ask(port)] == ["", ""], "the connection is closed, not left hanging"
        assert said == ["s3: no pod of registry/store is ready"]
        cluster.start("one")
        until(lambda: ask(port), "one hello")
        assert said[1:] == ["s3: is there again"]
        assert relays.open("other", cluster.route()) != port


def test_each_side_may_say_that_it_has_said_all(cluster: Cluster) -> None:
    cluster.start("one")
    with Relays(lambda line: None) as relays:
        port = relays.open("s3", cluster.route())
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"a\n" * 50_000)
            connection.shutdown(socket.SHUT_WR)
            lines = connection.makefile().read().splitlines()
    assert len(lines) == 50_001
    assert lines[-1] == "end"


def test_a_port_in_use_is_refused_and_a_port_is_free_again_afterwards(cluster: Cluster) -> None:
    cluster.start("one")
    with Relays(lambda line: None) as relays:
        port = relays.open("s3", cluster.route())
        with pytest.raises(BadInput, match=f"port {port}"):
            relays.open("mlflow", cluster.route(), port)
    with Relays(lambda line: None) as relays:
        assert relays.open("s3", cluster.route(), port) == port
        assert ask(port) == "one hello"
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_stopping_while_somebody_is_connected_is_quiet(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    cluster.start("one")
    with Relays(lambda line: None) as relays:
        port = relays.open("s3", cluster.route())
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connection.sendall(b"hello\n")
        assert connection.makefile().readline() == "one hello\n"
    connection.close()
    assert caplog.text == ""
