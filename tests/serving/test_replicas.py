"""Replicas behind a name: found, asked for what they have, and given up, while the gateway runs."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import pytest
from starlette.testclient import TestClient
from tritonclient.grpc import service_pb2, service_pb2_grpc

from modelport.connection import Connection, Role
from modelport.contract import ClassSpec, Task
from modelport.errors import BadInput, Unavailable
from modelport.imaging import encode_png
from modelport.local import ports
from modelport.serving import LoadedRelease, ModelState, ReplicaState, hash_key, new_key
from modelport.serving.gateway.app import create_app
from modelport.serving.gateway.releases import ModelView, ReleaseTable
from modelport.serving.gateway.replicas import Place, Replica, places, resolve
from modelport.serving.gateway.settings import GatewaySettings
from tests.serving.waiting import until

NAME = "triton-replicas.serving.svc"

EXPANDED = [
    (
        "a name that agent and Triton share",
        Place(f"http://{NAME}:8090", f"{NAME}:8001"),
        [Replica("http://10.0.0.1:8090", "10.0.0.1:8001"), Replica("http://10.0.0.2:8090", "10.0.0.2:8001")],
    ),
    (
        "fixed addresses stay",
        Place("http://127.0.0.1:8090", "127.0.0.1:8001"),
        [Replica("http://127.0.0.1:8090", "127.0.0.1:8001")],
    ),
    (
        "an agent at another name than its Triton is one replica",
        Place("http://agent:8090", "triton:8001"),
        [Replica("http://agent:8090", "triton:8001")],
    ),
    (
        "this machine is one replica, however many addresses it has",
        Place("http://localhost:8090", "localhost:8001"),
        [Replica("http://localhost:8090", "localhost:8001")],
    ),
]


@pytest.mark.parametrize(("place", "expected"), [c[1:] for c in EXPANDED], ids=[c[0] for c in EXPANDED])
def test_what_a_place_stands_for(place: Place, expected: list[Replica]) -> None:
    assert place.replicas(["10.0.0.2", "10.0.0.1", "10.0.0.2"]) == expected


def test_addresses_of_the_sixth_version_are_written_in_brackets() -> None:
    found = Place(f"http://{NAME}:8090", f"{NAME}:8001").replicas(["fd00::1"])
    assert found == [Replica("http://[fd00::1]:8090", "[fd00::1]:8001")]


def test_agents_have_a_triton_each_or_share_one() -> None:
    urls = ("http://a:1", "http://b:1/")
    assert places(urls, "a:2, b:2") == [Place("http://a:1", "a:2"), Place("http://b:1", "b:2")]
    assert places(urls, "a:2") == [Place("http://a:1", "a:2"), Place("http://b:1", "a:2")]
    for tritons, agents in (("a:2,b:2,c:2", urls), ("a:2,", urls), ("a:2", ("a:1",))):
        with pytest.raises(BadInput):
            places(agents, tritons)


def test_a_name_without_addresses_has_none_and_an_address_is_its_own() -> None:
    assert asyncio.run(resolve("127.0.0.2")) == ["127.0.0.2"]
    try:
        socket.getaddrinfo("nothing.invalid", None)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:  # where there is no name service, that is not "no addresses"
            with pytest.raises(Unavailable, match=r"nothing\.invalid"):
                asyncio.run(resolve("nothing.invalid"))
        else:
            assert asyncio.run(resolve("nothing.invalid")) == []


def release(model: str, digest: str) -> LoadedRelease:
    classes = (ClassSpec(name="background"), ClassSpec(name="red"))
    return LoadedRelease(digest=digest * 64, triton_name=f"{model}.{digest}", task=Task.SEGMENT, classes=classes)


@dataclass
class Stub(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A replica at an address of its own: what its agent says, and a Triton that answers with its number."""

    address: str
    number: int
    agent_port: int
    triton_port: int
    models: dict[str, str]
    """Loaded release by model."""
    asked: list[str] = field(default_factory=list)
    slow: threading.Event = field(default_factory=threading.Event)
    """While it is clear, answers wait."""

    def __post_init__(self) -> None:
        self.slow.set()
        stub = self

        class Agent(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = stub.state().model_dump_json().encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.agent = ThreadingHTTPServer((self.address, self.agent_port), Agent)
        threading.Thread(target=self.agent.serve_forever, daemon=True).start()
        self.triton = grpc.server(ThreadPoolExecutor(4))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.triton)
        assert self.triton.add_insecure_port(f"{self.address}:{self.triton_port}")
        self.triton.start()

    def state(self) -> ReplicaState:
        now = datetime.now(UTC)
        models = {
            model: ModelState(
                desired=digest * 64, serving=digest * 64, loaded=(release(model, digest),), error=None, since=now
            )
            for model, digest in self.models.items()
        }
        return ReplicaState(replica=str(self.number), ready=True, models=models)

    def ModelInfer(self, request, context):  # noqa: N802  gRPC's name for it
        self.asked.append(request.model_name)
        if request.model_name not in {f"{model}.{digest}" for model, digest in self.models.items()}:
            context.abort(
                grpc.StatusCode.UNAVAILABLE, f"Request for unknown model: '{request.model_name}' is not found"
            )
        self.slow.wait(20)
        height, width, _ = request.inputs[0].shape
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        mask = np.zeros((height, width), np.uint8)
        mask.flat[: mask.size * self.number // 10] = 1
        for name, array, kind in (
            ("mask", mask, "UINT8"),
            ("coverage", np.array([self.number / 10], np.float32), "FP32"),
        ):
            answer.outputs.add(name=name, datatype=kind, shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer

    def ModelReady(self, request, context):  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=True)

    def close(self) -> None:
        self.slow.set()
        self.agent.shutdown()
        self.agent.server_close()
        self.triton.stop(None)


@pytest.fixture
def stubs() -> Iterator[list[Stub]]:
    """Two replicas at one port each of two addresses: both serve `shared`, and each one a model of its own."""
    agent, triton = ports.free_ports(2)
    made = [
        Stub("127.0.0.1", 1, agent, triton, {"shared": "a", "first": "a"}),
        Stub("127.0.0.2", 2, agent, triton, {"shared": "a", "second": "b"}),
    ]
    yield made
    for stub in made:
        stub.close()


def test_what_a_dead_agent_said_is_desired_does_not_outvote_one_that_lives(stubs: list[Stub]) -> None:
    one, two = stubs
    known = [Place(f"http://{stub.address}:{stub.agent_port}", f"{stub.address}:{stub.triton_port}") for stub in stubs]

    async def keep(tritons: Collection[str]) -> None:
        pass

    async def looked() -> list[ModelView]:
        table = ReleaseTable(known, 1.0, keep)
        views: list[ModelView] = []
        for _ in range(2):
            await table.refresh()
            views.append(table.models["shared"])
            one.agent.server_close()
            one.agent.shutdown()
            two.models["shared"] = "b"  # rolled back to, while `one` still has what was taken back
        await table.close()
        return views

    before, after = asyncio.run(looked())
    assert (before.active, len(before.at)) == (release("shared", "a"), 2)
    assert (after.active, after.at, after.desired) == (release("shared", "b"), (known[1].triton,), "b" * 64)


def test_a_gateway_follows_the_replicas_behind_a_name(
    stubs: list[Stub], s3_connection: Connection, tmp_path: Path
) -> None:
    one, two = stubs
    addresses: list[str] = ["127.0.0.1", "127.0.0.2"]
    away = False

    async def names(name: str) -> list[str]:
        assert name == NAME
        if away:
            raise Unavailable(f"{name} cannot be resolved")
        return list(addresses)

    key = new_key()
    (tmp_path / "keys.json").write_text(json.dumps({"tester": hash_key(key)}))
    connection = s3_connection.restricted_to(Role.SERVER).model_copy(
        update={"agent_urls": (f"http://{NAME}:{one.agent_port}",), "triton_grpc": f"{NAME}:{one.triton_port}"}
    )
    settings = GatewaySettings(tmp_path / "keys.json", tmp_path / "spool", refresh=0.05)
    image = encode_png(np.zeros((10, 10, 3), np.uint8))

    with TestClient(create_app(settings, connection, names), headers={"X-API-Key": key}) as client:

        def ask(model: str):
            return client.post(f"/v1/models/{model}/predict", files={"image": image})

        def answered_by(model: str, times: int = 6) -> set[int]:
            answers = [ask(model) for _ in range(times)]
            assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
            return {round(answer.json()["coverage"] * 10) for answer in answers}

        def known(model: str) -> dict:
            return client.get(f"/v1/models/{model}").json()

        # Each model at those that hold it, and at no other: not even asked.
        assert answered_by("shared") == {1, 2}
        assert answered_by("first") == {1}
        assert answered_by("second") == {2}
        assert "second.b" not in one.asked
        assert "first.a" not in two.asked
        assert ask("nothing").status_code == 404
        assert client.get("/readyz").json() == {"ready": True, "models": ["first", "second", "shared"]}

        # One leaves while it still works on an answer: that answer comes, and nothing new is sent to it.
        two.slow.clear()
        before = len(two.asked)
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(ask, "second")
            until(lambda: len(two.asked) > before, "the request to arrive")
            addresses.remove("127.0.0.2")
            until(lambda: known("shared")["replicas"] == 1, "the replica to be dropped")
            two.slow.set()
            answer = late.result(timeout=20)
        assert answer.status_code == 200
        assert answer.json()["coverage"] == pytest.approx(0.2)
        before = len(two.asked)
        assert answered_by("shared") == {1}
        gone = ask("second")
        assert (gone.status_code, gone.json()["reason"]) == (503, "no_release_ready")
        assert "none of its replicas" in gone.json()["message"]
        assert len(two.asked) == before
        assert answered_by("first") == {1}, "another model's pool is not touched"

        # It comes back with another release, without a restart of the gateway.
        two.models["second"] = "c"
        addresses.append("127.0.0.2")
        until(lambda: ask("second").status_code == 200, "the replica to be found")
        assert ask("second").json()["release"] == "c" * 64

        # The name service being away takes nothing away; a name of nothing does, and says so.
        away = True
        time.sleep(0.3)
        assert answered_by("shared") == {1, 2}
        away = False
        addresses.clear()
        until(lambda: ask("shared").status_code == 503, "the replicas to be dropped")
        for model in ("shared", "nothing"):
            answer = ask(model)
            assert (answer.status_code, answer.json()["reason"]) == (503, "no_release_ready")
            assert "Retry-After" in answer.headers
        assert NAME in ask("nothing").json()["message"]
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        addresses.append("127.0.0.1")
        until(lambda: ask("shared").status_code == 200, "the replica to come back")
