"""A stack that is up in a real cluster on one machine: what a journey and the faults share."""

import base64
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from components.labels import COMPONENT, Component
from infra.network import Namespace
from modelport.connection import S3Key
from tests.cluster.client import ClusterError
from tests.cluster.meter import PodUsed
from tests.cluster.one_node import OneNode
from tests.engine.engine import Changes, Engine, chart_definitions
from tests.whole.asker import Answer, read_answers
from tests.whole.laptop import Laptop, Said
from tests.whole.stack import CALLER, MANAGERS, MODEL, SCIENTISTS, STACK, small_project, write_stack
from tools.build import ensure
from tools.catalog import TOOLS

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300
"""For a pod on a busy machine to become ready."""

_GET = """
import json, sys, urllib.error, urllib.request
asked = urllib.request.Request(sys.argv[1], headers=json.load(sys.stdin))
try:
    answer = urllib.request.urlopen(asked, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
except OSError as error:
    print(json.dumps([0, str(error)]))
    sys.exit()
print(json.dumps([answer.status, answer.read().decode()]))
"""

_DIFFERENT = """
import sys, tempfile
from pathlib import Path
from modelport.connection import Connection, Role
from modelport.objects import ObjectStore
from modelport.release import FP32, Release, compare, staging_prefix
model, *digests = sys.argv[1:]
store = ObjectStore.connect(Connection.load(), Role.PROMOTER)
with tempfile.TemporaryDirectory() as folder:
    one, other = (Release.fetch(store, staging_prefix(model), digest, Path(folder) / digest) for digest in digests)
    told = {golden.name: golden.expected for golden in other.golden()}
    tolerance = one.manifest.tolerances[FP32]
    print(sum(bool(compare(told[golden.name], golden.expected, tolerance)) for golden in one.golden()))
"""

_LOG = """
import sys
from modelport.connection import Connection, Role
from modelport.objects import ObjectStore
print(ObjectStore.connect(Connection.load(), Role.PROMOTER).get(f"promotions/{sys.argv[1]}/log.json").decode())
"""


class Held(BaseModel):
    """What a Secret with a connection holds, whoever mounts or reads it."""

    s3_keys: dict[str, S3Key]
    tracking_uri: str = ""
    tracking_username: str | None = None
    tracking_password: str | None = None


@dataclass
class Site:
    """A cluster, the program that runs in it, and the laptops of two people."""

    folder: Path
    cluster: OneNode
    engine: Engine
    scientist: Laptop
    manager: Laptop
    settings: dict[str, Any]
    """Of the stack, by whole key, beside or over `stack.settings`."""

    @property
    def project(self) -> Path:
        """The copy of the project that the stack is made from."""
        return self.engine.project

    def up(self, *options: str) -> Changes:
        """`pulumi up`."""
        return self.engine.up(*options)

    def configure(self, **more: Any) -> None:
        """Change settings of the stack, by whole key; the next `up` brings them about."""
        self.settings |= more
        write_stack(self.project, self.cluster.kubeconfig, **self.settings)

    def renew(self, **settings: Any) -> None:
        """Take this checkout in the place of the one that the stack was made from, with these settings."""
        noted = self.project / "stacks" / f"Pulumi.{STACK}.yaml"
        text = noted.read_text()
        shutil.rmtree(self.project)
        small_project(PROJECT, self.project)
        noted.write_text(text)
        self.settings = settings
        write_stack(self.project, self.cluster.kubeconfig, **settings)

    def destroy(self) -> Changes:
        """`pulumi destroy`."""
        return self.engine.destroy()

    def namespaces(self) -> list[str]:
        """Names of the cluster's namespaces."""
        return [one["metadata"]["name"] for one in self.cluster.get("/api/v1/namespaces")["items"]]

    def beside_namespaces(self) -> set[str]:
        """What there is that belongs to no namespace, as ``kind/name``; without what the cluster makes as it runs."""
        kinds = ("namespaces", "persistentvolumes", "clusterroles", "clusterrolebindings", "customresourcedefinitions")
        kinds += ("priorityclasses", "validatingwebhookconfigurations", "mutatingwebhookconfigurations", "apiservices")
        return set(self.cluster.kubectl("get", ",".join(kinds), "-o", "name").split())

    def pods(self, namespace: Namespace, component: Component) -> list[dict[str, Any]]:
        """Pods of a component that are not being deleted."""
        selector = f"{COMPONENT.replace('/', '%2F')}%3D{component}"
        found = self.cluster.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def wait(self, what: str, ask: Callable[[], T | None], seconds: float = PATIENCE_S) -> T:
        """The first answer that is neither None nor false.

        Raises:
            TimeoutError: there was none in time; with what the cluster says of its pods.
        """
        deadline = time.monotonic() + seconds
        while True:
            if answer := ask():
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}\n{self.cluster.report()}")
            time.sleep(0.5)

    def train(self, *options: str, meanwhile: "Callable[[Site], None] | None" = None) -> Said:
        """Let the scientist train in the cluster, to the end, and have something done while that goes on."""
        with ThreadPoolExecutor(1) as pool:
            training = pool.submit(self.scientist.connected, "train", MODEL, *options)
            if meanwhile is not None:
                meanwhile(self)
            return training.result()

    def training_logs(self) -> list[str]:
        """What the submitters of trainings that go on have said so far."""
        pods = self.pods(Namespace.TRAINING, Component.RAY_SUBMITTER)
        running = [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"]
        return [self.cluster.kubectl("-n", Namespace.TRAINING.value, "logs", name) for name in running]

    @contextmanager
    def training(self, *settings: str) -> Generator[None]:
        """A training of the scientist's that has begun; it is taken away at the end."""
        options = [word for setting in settings for word in ("--set", setting)]
        thread = threading.Thread(target=lambda: self.scientist.connected("train", MODEL, *options, code=None))
        thread.start()
        try:
            self.wait("a training to begin", lambda: any("epoch 1/" in log for log in self.training_logs()))
            yield
        finally:
            self.cluster.kubectl("-n", Namespace.TRAINING.value, "delete", "rayjobs", "--all")
            thread.join(timeout=120)

    @contextmanager
    def namespace(self, name: str) -> Generator[None]:
        """A namespace that is not the stack's."""
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        try:
            yield
        finally:
            self.cluster.kubectl("delete", "namespace", name)

    def delete_workers(self) -> list[str]:
        """Kill the workers of the trainings that go on; their names."""
        return self.delete_ray_pods("worker")

    def delete_ray_pods(self, kind: str) -> list[str]:
        """Kill the pods of trainings of a kind, ``head`` or ``worker``; their names."""
        pods = self.pods(Namespace.TRAINING, Component.RAY)
        names = [pod["metadata"]["name"] for pod in pods if pod["metadata"]["labels"]["ray.io/node-type"] == kind]
        now = ("--grace-period=0", "--force", "--wait=false")
        self.cluster.kubectl("-n", Namespace.TRAINING.value, "delete", "pod", *names, *now)
        return names

    def start_load(self) -> str:
        """Start the stack's load test, as its component says how; the name of its Job."""
        name, cron = f"load-{time.time_ns() // 1_000_000}", f"{MODEL.replace('_', '-')}-load-test"
        self.cluster.kubectl("-n", Namespace.SERVING.value, "create", "job", name, f"--from=cronjob/{cron}")
        return name

    def load_is_on(self, job: str) -> bool:
        """Whether the load test's users are asking."""
        selector = f"batch.kubernetes.io%2Fjob-name%3D{job}"
        pods = self.cluster.get(f"/api/v1/namespaces/{Namespace.SERVING}/pods?labelSelector={selector}")["items"]
        running = [pod for pod in pods if pod["status"]["phase"] != "Pending"]
        return bool(running) and len(running) == len(pods) and "All users spawned" in self._load_log(job)

    def end_of_load(self, job: str, seconds: float) -> "Load":
        """What a load test found, when it has ended."""
        path = f"/apis/batch/v1/namespaces/{Namespace.SERVING}/jobs/{job}"

        def ended() -> bool:
            conditions = self.cluster.get(path).get("status", {}).get("conditions", [])
            return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)

        self.wait(f"the end of {job}", ended, seconds)
        return read_load(self._load_log(job))

    def _load_log(self, job: str) -> str:
        selector = f"batch.kubernetes.io/job-name={job},batch.kubernetes.io/job-completion-index=0"
        return self.cluster.kubectl("-n", Namespace.SERVING.value, "logs", "--tail=-1", "-l", selector)

    def is_asking(self, job: str) -> bool:
        """Whether a load test still goes on."""
        path = f"/apis/batch/v1/namespaces/{Namespace.SERVING}/jobs/{job}"
        return self.cluster.get(path).get("status", {}).get("active", 0) > 0

    def pods_used(self) -> list[PodUsed]:
        """What each pod of the stack that there ever was has used, beside what it asked for."""
        return [used for used in self.cluster.pods_used() if used.pod.partition("/")[0] in set(Namespace)]

    def scale(self, namespace: Namespace, kind: str, name: str, replicas: int) -> None:
        """Set how many pods a Deployment or StatefulSet has, and wait until those are gone that are too many."""
        self.cluster.kubectl("-n", namespace.value, "scale", f"{kind}/{name}", f"--replicas={replicas}")
        if not replicas:
            gone = ("-n", namespace.value, "wait", "--for=delete", "pod", "-l", f"{COMPONENT}={name}")
            self.cluster.kubectl(*gone, "--timeout=90s")

    def delete_pods(self, namespace: Namespace, component: Component, *, force: bool = False) -> list[str]:
        """Delete the pods of a component; their names.

        Raises:
            LookupError: there is none.
        """
        names = [pod["metadata"]["name"] for pod in self.pods(namespace, component)]
        if not names:
            raise LookupError(f"no pod of {component} in {namespace}")
        now = ("--grace-period=0", "--force") if force else ()
        self.cluster.kubectl("-n", namespace.value, "delete", "pod", *names, "--wait=false", *now)
        return names

    def ready(self, namespace: Namespace, component: Component) -> bool:
        """Whether there are such pods, and all of them are ready."""
        pods = self.pods(namespace, component)
        return bool(pods) and all(
            any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))
            for pod in pods
        )

    def uids(self, namespace: Namespace, component: Component) -> set[str]:
        """UIDs of a component's pods."""
        return {pod["metadata"]["uid"] for pod in self.pods(namespace, component)}

    def replaced(self, namespace: Namespace, component: Component, gone: set[str]) -> bool:
        """Whether the pods of these UIDs have gone, and others are ready in their place."""
        return self.ready(namespace, component) and not gone & self.uids(namespace, component)

    def servers(self) -> list[str]:
        """Names of the servers' pods."""
        return sorted(pod["metadata"]["name"] for pod in self.pods(Namespace.SERVING, Component.TRITON))

    def agent_log(self, *pods: str) -> str:
        """What the agents beside these servers, or all of them, have said; with times."""
        said: list[str] = []
        for name in pods or self.servers():
            # One that has not begun, or has just gone, has said nothing.
            with suppress(ClusterError):
                command = ("-n", Namespace.SERVING.value, "logs", name, "-c", "agent", "--timestamps")
                said.append(self.cluster.kubectl(*command))
        return "".join(said)

    def loaded_at(self, pod: str, digest: str) -> float | None:
        """When an agent said last that it has loaded and verified a release, in seconds since the epoch."""
        lines = [line for line in self.agent_log(pod).splitlines() if f"release {digest[:12]} is loaded" in line]
        if not lines:
            return None
        # Nanoseconds are more than Python reads.
        seconds, _, fraction = lines[-1].partition(" ")[0].rstrip("Z").partition(".")
        return datetime.fromisoformat(f"{seconds}.{fraction[:6]:0<6}+00:00").timestamp()

    def rollout(self, namespace: Namespace, kind: str, name: str) -> None:
        """Replace every pod of a workload by a new one, as its update strategy has it, and wait for the last."""
        self.cluster.kubectl("-n", namespace.value, "rollout", "restart", f"{kind}/{name}")

        def done() -> bool:
            place = f"/apis/apps/v1/namespaces/{namespace}/{kind}s/{name}"
            found = self.cluster.get(place)
            status, wanted = found["status"], found["spec"]["replicas"]
            numbers = {status.get(key) for key in ("replicas", "updatedReplicas", "readyReplicas")}
            return status["observedGeneration"] == found["metadata"]["generation"] and numbers == {wanted}

        self.wait(f"the rollout of {name}", done)

    def sample(self) -> Path:
        """The image that is asked about."""
        return self.project / "models" / MODEL / "sample" / "golden" / "plain.jpg"

    def answered_differently(self, one: str, other: str) -> int:
        """On how many golden images two releases differ by more than is tolerated: where a mix of them would show."""
        told = self.manager.program("--role", "promoter", "--", sys.executable, "-c", _DIFFERENT, MODEL, one, other)
        return int(told.out)

    def log_of_promotions(self) -> str:
        """The model's promotion log, as it is stored."""
        return self.manager.program("--role", "promoter", "--", sys.executable, "-c", _LOG, MODEL).out

    def fill_store(self) -> str:
        """Fill the object store until it refuses the smallest object; what it said then."""
        return self._at_store("fill", self._administrator())

    def make_room(self) -> None:
        """Remove what `fill_store` has written."""
        self._at_store("empty", self._administrator())

    def recorded(self) -> set[str]:
        """Requests of all prediction records in the object store."""
        return set(self._at_store("records", self._administrator()))

    def refused_by_store(self, key: S3Key) -> str | None:
        """What the object store says of a key that it does not take; None where it does."""
        return self._at_store("try", key)

    def _administrator(self) -> S3Key:
        data = self.secret(Namespace.REGISTRY, "object-store-root")
        return S3Key(access_key=data["user"], secret_key=data["password"])

    def _at_store(self, what: str, key: S3Key) -> Any:
        """What a command of `tests.whole.store` says, at the node."""
        command = self.cluster.inside(
            sys.executable, "-m", "tests.whole.store", what, self._service_url(Namespace.REGISTRY, "object-store")
        )
        done = subprocess.run(
            command, input=key.model_dump_json(), cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def connections(self) -> Mapping[str, Held]:
        """The connections that the stack's Secrets hold now, by the Secrets' names without their generations."""
        return {
            re.sub(r"(-\d+)+$", "", item["metadata"]["name"]): Held.model_validate_json(
                base64.b64decode(item["data"]["connection.json"])
            )
            for namespace in set(self.namespaces()) & set(Namespace)
            for item in self.cluster.get(f"/api/v1/namespaces/{namespace}/secrets")["items"]
            if "connection.json" in item.get("data", {})
        }

    def status_at_mlflow(self, connection: Held) -> int:
        """HTTP status that MLflow gives to a connection's user, from the node."""
        path = "/api/2.0/mlflow/experiments/search?max_results=1"
        pair = f"{connection.tracking_username}:{connection.tracking_password}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        # It answers to its own names only.
        headers = {"Authorization": authorization, "Host": urlsplit(connection.tracking_uri).netloc}
        return self._get(f"{self._service_url(Namespace.REGISTRY, 'mlflow')}{path}", headers)[0]

    def database_takes(self, password: str) -> bool:
        """Whether PostgreSQL lets MLflow's user in with a password, from another address than its own."""
        login = 'exec psql --host="$(hostname -i)" --username=mlflow --dbname=mlflow --command="select 1"'
        command = f"read -r PGPASSWORD; export PGPASSWORD; {login}"
        pod = ("-n", Namespace.REGISTRY.value, "exec", "-i", "postgres-0", "-c", "postgres")
        try:
            self.cluster.kubectl(*pod, "--", "sh", "-c", command, stdin=f"{password}\n")
        except ClusterError as error:
            if "password authentication failed" in str(error):
                return False
            raise
        return True

    def secret(self, namespace: Namespace, name: str) -> dict[str, str]:
        """What a Secret holds."""
        data = self.cluster.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def status_with(self, key: str) -> int:
        """HTTP status that the gateway gives to somebody with this key, from the node; 0 without an answer."""
        return self._get(self.gateway_url(f"/v1/models/{MODEL}"), {"X-API-Key": key})[0]

    def status_of(self, url: str) -> int:
        """HTTP status of an answer to the node that has no key; 0 without one."""
        return self._get(url, {})[0]

    @contextmanager
    def asked(self, key: str | None = None) -> Generator[Callable[[], list[Answer]]]:
        """Somebody goes on asking for predictions, from the node; yields what came of it so far.

        Args:
            key: the API key [default: the caller's].
        """
        notes = self.folder / f"answers-{time.time_ns()}.jsonl"
        # Of this checkout: the stack's project may be replaced meanwhile.
        image = PROJECT / "models" / MODEL / "sample" / "golden" / "plain.jpg"
        url = self.gateway_url(f"/v1/models/{MODEL}/predict")
        command = self.cluster.inside(sys.executable, "-m", "tests.whole.asker", url, str(image), str(notes))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=PROJECT, text=True)
        try:
            assert process.stdin is not None
            process.stdin.write(key or self.gateway_key())
            process.stdin.close()
            self.wait("the first answer", lambda: read_answers(notes), 60)
            yield lambda: read_answers(notes)
        finally:
            process.kill()
            process.wait(timeout=10)

    def model(self) -> Mapping[str, Any]:
        """What the gateway says of the model."""
        return self.ask_gateway(f"/v1/models/{MODEL}")

    def ask_gateway(self, path: str) -> Mapping[str, Any]:
        """GET of the gateway with the caller's key, from the node.

        Raises:
            LookupError: it answers with another status than 200, or not at all.
        """
        status, body = self._get(self.gateway_url(path), {"X-API-Key": self.gateway_key()})
        if status != 200:
            raise LookupError(f"the gateway answers {path} with {status}: {body}")
        return json.loads(body)

    def _get(self, url: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Status and body of an answer, asked from the node; 0 without one."""
        command = self.cluster.inside(sys.executable, "-I", "-c", _GET, url)
        done = subprocess.run(
            command, input=json.dumps(headers), capture_output=True, text=True, timeout=30, check=True
        )
        status, body = json.loads(done.stdout)
        return status, body

    def gateway_url(self, path: str) -> str:
        """URL of the gateway's Service, as the node reaches it."""
        return f"{self._service_url(Namespace.SERVING, 'gateway')}{path}"

    def _service_url(self, namespace: Namespace, name: str) -> str:
        service = self.cluster.get(f"/api/v1/namespaces/{namespace}/services/{name}")["spec"]
        return f"http://{service['clusterIP']}:{service['ports'][0]['port']}"

    def gateway_key(self) -> str:
        """The caller's API key."""
        return self.secret(Namespace.SERVING, f"gateway-key-{CALLER}")["api-key"]


def brought_together(folder: Path, cluster: OneNode, source: Path, **settings: Any) -> Site:
    """A project's copy, the engine, and the people, for a cluster that is up."""
    project = small_project(source, folder / "project")
    write_stack(project, cluster.kubeconfig, **settings)
    engine = Engine(
        project,
        folder / "engine",
        kubeconfig=cluster.kubeconfig,
        env={
            "MODELPORT_TEST_CRDS": str(chart_definitions(folder / "charts", running=("kuberay-operator",))),
            "MODELPORT_TEST_KUBERAY_RIGHTS": str(ensure(TOOLS["ray-operator"]) / "role.yaml"),
            "MODELPORT_TEST_PATIENCE": str(PATIENCE_S),
        },
        timeout=900,
    )
    engine.stack_init(STACK)
    scientist, manager = (_person(folder / group, cluster, project, group) for group in (SCIENTISTS, MANAGERS))
    return Site(folder, cluster, engine, scientist, manager, settings)


def _person(folder: Path, cluster: OneNode, project: Path, group: str) -> Laptop:
    """Somebody of a group, with no rights but those that the stack gives it."""
    metadata = {"name": "somebody", "namespace": group}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": group}})
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    token = cluster.kubectl("create", "token", "somebody", "-n", group, "--duration=8h").strip()
    document = json.loads(cluster.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    folder.mkdir(parents=True)
    person = Laptop(project, folder)
    person.kubeconfig.write_text(json.dumps(document))
    return person


@dataclass(frozen=True)
class Load:
    """What a load test in the cluster found."""

    requests: int
    failed: int
    median_ms: int
    longest_ms: int
    by_release: Mapping[str, int]
    """Right and wrong answers that named a release, by the first twelve digits of its digest."""
    log: str


def read_load(log: str) -> Load:
    """The numbers of Locust's own summary.

    Raises:
        ValueError: there is none.
    """
    counts = r"(?P<requests>\d+)\s+(?P<failed>\d+)\(\S+\)"
    times = r"\d+\s+\d+\s+(?P<longest>\d+)\s+(?P<median>\d+)"
    found = re.search(rf"^\s*Aggregated\s+{counts}\s*\|\s*{times}\s*\|", log, re.MULTILINE)
    if found is None:
        raise ValueError(f"the load test left no summary:\n{log[-4000:]}")
    numbers = (int(found[name]) for name in ("requests", "failed", "median", "longest"))
    # Of the table of times: Locust writes one of percentiles below it, whose rows begin alike.
    table = log[: found.start()].rpartition("# reqs")[2]
    by_release = re.findall(r"^POST\s+\S+ by ([0-9a-f]{12})\s+(\d+)", table, re.MULTILINE)
    return Load(*numbers, {release: int(count) for release, count in by_release}, log)
