"""A real Kubernetes control plane on 127.0.0.1, whose nodes and pods only look as if they ran.

Real are: etcd, API server with admission, RBAC and service accounts, controllers, scheduler, KubeRay's operator. kwok
plays the kubelets: a pod that was scheduled is Running and Ready at once, a pod of a Job has succeeded a moment later.
`storage` plays the provisioner of disks.

Admission enforces the restricted Pod Security Standard, in its newest version, in every namespace but kube-system. A
namespace's own labels still come first, as anywhere: no label, no exception.

What cannot be seen here, because nothing runs inside of a pod:

- images are not pulled, probes are not asked, logs, exec and port-forward do not work, no container ever fails;
- Services have no network behind them, LoadBalancers get no address, NetworkPolicies are stored and not enforced;
- volumes are bound, not attached, mounted or resized; quotas and limits count at admission and in scheduling only;
- pools do not scale: nodes are those that were asked for; HorizontalPodAutoscalers have no metrics;
- a RayCluster gets ready, because that needs ready pods only. A RayJob gets its cluster and its submitter Job, and then
  ends as `ControlPlane.end_ray_jobs` says, because `dashboard` answers for Ray's dashboards: SUCCEEDED where nothing
  else was said. So it is Complete within two seconds, nothing was trained, and none that runs for long can be had. Its
  cluster goes at once if it says ``shutdownAfterJobFinishes``.
"""

import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from modelport.local.ports import free_ports
from tests.cluster import storage
from tests.cluster.configuration import (
    admission_configuration,
    egress_configuration,
    kubeconfig,
    write_json,
    write_private,
    write_service_account_keys,
)
from tests.cluster.nodes import GKE_NODES, Node
from tools import crds, program, stages

T = TypeVar("T")

SERVICE_NETWORK = "10.96.0.0/16"
"""Where Services get their addresses."""

_HERE = Path(__file__).resolve().parent
_START_S = 60.0
_LOG_LINES = 25
# Endpoints of the API server's own Service must not be a loopback address; nobody connects to this one.
_ADVERTISED = "192.0.2.1"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_POD_SOCKET = "pods.sock"
_RAY_JOB_STATUS = "ray-job-status"
_STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")


class ControlPlaneError(Exception):
    """The control plane does not do what was waited for; the message holds the end of a log."""


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class ControlPlane:
    """A control plane of its own, from `start` or entering the context until `stop` or leaving it.

    All its processes end, and its files go, when the process that started it ends, however that happens.

    Args:
        nodes: what pods can be scheduled on.
    """

    url: str
    """Of the API server, ``https://127.0.0.1:PORT``."""
    token: str
    """Bearer token of the administrator, in the group ``system:masters``."""
    kubeconfig: Path
    """For kubectl and every other client; JSON, which is YAML."""
    state: Path
    """Folder of everything, removed by `stop`."""

    def __init__(self, nodes: Sequence[Node] = GKE_NODES) -> None:
        self._nodes = tuple(nodes)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None
        self._ray_operator = False
        self.token = secrets.token_hex(16)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Bring it up: when this returns, pods are scheduled, and claims are bound.

        Raises:
            ControlPlaneError: a process ended, or something took longer than a minute.
        """
        if self._keeper is not None:
            raise ControlPlaneError("it has been started already")
        programs = {
            name: program(name)
            for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "kubectl")
        }
        self.state = Path(tempfile.mkdtemp(prefix="modelport-cluster-"))
        for folder in ("log", "ended", "certs"):
            (self.state / folder).mkdir()
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", _HERE / "keeper.py", self.state],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        try:
            self._bring_up(programs)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process and remove every file; does nothing when that has been done."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(timeout=20)
            self._keeper = None
            # The keeper does this; but it may have been killed.
            shutil.rmtree(self.state, ignore_errors=True)
        self._ray_operator = False

    # Talking to it

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request to the API server; the answer's JSON object.

        Args:
            method: of HTTP.
            path: such as ``/api/v1/nodes``, with its query.
            body: an object to send.
            content_type: of the body, which for a PATCH says what kind of patch it is.

        Raises:
            ApiError: it refuses; with its status and message.
        """
        return self._send(method, path, None if body is None else json.dumps(body), content_type)

    def get(self, path: str) -> dict[str, Any]:
        """One object or list; see `request`."""
        return self.request("GET", path)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output of kubectl as the administrator.

        Raises:
            ControlPlaneError: it fails; with what it said.
        """
        done = subprocess.run(
            [
                program("kubectl"),
                f"--kubeconfig={self.kubeconfig}",
                f"--cache-dir={self.state / 'kubectl'}",
                *arguments,
            ],
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise ControlPlaneError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply objects on the server's side, fields that it does not know refused.

        Raises:
            ControlPlaneError: one is refused; with the reason.
        """
        listing = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(listing))

    def apply_crds(self, folder: Path) -> None:
        """Apply a folder of custom resource definitions, such as ``tools.crds("keda")``, and wait until they serve.

        Raises:
            ControlPlaneError: one is not served within a minute.
            ApiError: one is refused.
        """
        texts = [
            text
            for file in sorted(folder.glob("*.yaml"))
            for text in re.split(r"^---.*$", file.read_text(), flags=re.MULTILINE)
            if "\nkind: CustomResourceDefinition\n" in text
        ]
        if not texts:
            raise ControlPlaneError(f"no definitions in {folder}")
        # As they are: what a word such as `=` or `off` means in YAML is for the API server to say.
        names = {self._define(text) for text in texts}
        self.wait_for("kube-apiserver", "serves new kinds", lambda: self._serves(names))

    def start_ray_operator(self) -> None:
        """Start KubeRay's real operator on the control plane, with its definitions; once, whoever asks again.

        It acts as the administrator: whether the rights of its chart suffice is not seen here.

        Raises:
            ControlPlaneError: it ended, or is not ready within a minute.
        """
        if self._ray_operator:
            return
        operator = program("ray-operator")
        self.apply_crds(crds("ray-operator"))
        self.end_ray_jobs("SUCCEEDED")
        self._launch(
            "dashboard", [sys.executable, "-I", _HERE / "dashboard.py", _POD_SOCKET, self.state / _RAY_JOB_STATUS]
        )
        port = free_ports(1)[0]
        self._launch(
            "ray-operator",
            [
                operator,
                "--metrics-addr=0",
                f"--health-probe-bind-address=127.0.0.1:{port}",
                "--enable-leader-election=false",
                # The API server's way to pods leads to `dashboard`; the pods' own names are known nowhere.
                "--use-kubernetes-proxy",
            ],
            {"KUBECONFIG": str(self.kubeconfig)},
        )
        self.wait_for("ray-operator", "is ready", lambda: _answers(f"http://127.0.0.1:{port}/readyz"))
        self._ray_operator = True

    def end_ray_jobs(self, status: str) -> None:
        """Let every RayJob that is not over yet end like this: ``SUCCEEDED``, ``FAILED`` or ``STOPPED``."""
        (self.state / _RAY_JOB_STATUS).write_text(status)

    def wait_for(self, process: str, what: str, ask: Callable[[], T | None], seconds: float = _START_S) -> T:
        """The first answer of `ask` that is neither None nor false.

        Args:
            process: the one to blame: waiting ends when it ends, and its log goes into the message.
            what: is waited for, to go after the name of the process.
            ask: is called every 50 ms.
            seconds: how long it may take.

        Raises:
            ControlPlaneError: it took longer, or the process has ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            answer = ask()
            if answer:
                return answer
            ended = self.state / "ended" / process
            if ended.is_file():
                raise ControlPlaneError(f"{process} ended with status {ended.read_text()}\n{self.log(process)}")
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"not within {seconds:.0f} s: {process} {what}\n{self.log(process)}")
            time.sleep(0.05)

    def log(self, process: str, lines: int = _LOG_LINES) -> str:
        """The end of a process's log, such as that of ``kube-apiserver`` or ``ray-operator``."""
        file = self.state / "log" / f"{process}.log"
        if not file.is_file():
            return f"(no {file.name})"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])

    # Bringing it up

    def _bring_up(self, programs: Mapping[str, Path]) -> None:
        certs = self.state / "certs"
        sockets = f"unix://{self.state}/etcd.sock"
        self._launch(
            "etcd",
            [
                programs["etcd"],
                "--data-dir=etcd",
                f"--listen-client-urls={sockets}",
                f"--advertise-client-urls={sockets}",
                "--listen-peer-urls=unix://etcd-peer:1",
                "--initial-advertise-peer-urls=unix://etcd-peer:1",
                "--initial-cluster=default=unix://etcd-peer:1",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
        port = free_ports(1)[0]
        self.url = f"https://127.0.0.1:{port}"
        write_private(certs / "tokens.csv", f"{self.token},admin,admin,system:masters\n")
        write_service_account_keys(certs)
        write_json(self.state / "admission.json", admission_configuration())
        write_json(self.state / "egress.json", egress_configuration(self.state / _POD_SOCKET))
        self._launch(
            "kube-apiserver",
            [
                programs["kube-apiserver"],
                f"--etcd-servers={sockets}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                f"--advertise-address={_ADVERTISED}",
                f"--cert-dir={certs}",
                f"--token-auth-file={certs / 'tokens.csv'}",
                "--anonymous-auth=false",
                "--authorization-mode=Node,RBAC",
                "--admission-control-config-file=admission.json",
                "--egress-selector-config-file=egress.json",
                f"--service-cluster-ip-range={SERVICE_NETWORK}",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={certs / 'service-accounts.pub'}",
                f"--service-account-signing-key-file={certs / 'service-accounts.key'}",
            ],
        )
        self._write_kubeconfig(certs / "apiserver.crt")
        self.wait_for("kube-apiserver", "is ready", self._ready)
        # These need no ports: nobody asks them for metrics.
        asks = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0"]
        self._launch(
            "kube-controller-manager",
            [
                programs["kube-controller-manager"],
                *asks,
                f"--service-account-private-key-file={certs / 'service-accounts.key'}",
                f"--root-ca-file={certs / 'apiserver.crt'}",
            ],
        )
        self._launch("kube-scheduler", [programs["kube-scheduler"], *asks])
        (self.state / "stages.yaml").write_text("---\n".join(_stage_texts(stages())))
        self._launch(
            "kwok",
            [
                programs["kwok"],
                f"--kubeconfig={self.kubeconfig}",
                "--manage-all-nodes",
                "--config=stages.yaml",
                "--node-lease-duration-seconds=40",
                "--cidr=10.0.0.0/16",
                "--node-ip=10.0.255.1",
            ],
        )
        self._launch("storage", [sys.executable, _HERE / "storage.py", self.kubeconfig])
        self.apply(*storage.manifests(), *(node.manifest() for node in self._nodes))
        self.wait_for("kwok", "makes every node ready", self._nodes_ready)
        self.wait_for("kube-controller-manager", "makes service accounts", self._accounts_made)

    def _launch(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        order = {
            "name": name,
            "command": [str(part) for part in command],
            # Nothing of the user's: no proxies, no kubeconfig, no credentials.
            "environment": {"PATH": os.environ.get("PATH", ""), "HOME": str(self.state), **(environment or {})},
        }
        self._keeper.stdin.write(json.dumps(order).encode() + b"\n")
        self._keeper.stdin.flush()

    def _write_kubeconfig(self, authority: Path) -> None:
        # The API server makes its own certificate, for 127.0.0.1 too; it is there before the server listens.
        self.wait_for(
            "kube-apiserver", "makes its certificate", lambda: authority.is_file() and authority.stat().st_size
        )
        context = ssl.create_default_context(cafile=str(authority))
        self._client = httpx.Client(
            base_url=self.url,
            verify=context,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=60,
            trust_env=False,
        )
        self.kubeconfig = self.state / "kubeconfig"
        write_json(self.kubeconfig, kubeconfig(self.url, self.token, authority.read_bytes()))

    def _send(
        self, method: str, path: str, content: str | None, content_type: str, accept: str = "application/json"
    ) -> dict[str, Any]:
        assert self._client is not None, "the control plane is not up"
        headers = {"Accept": accept} | ({} if content is None else {"Content-Type": content_type})
        answer = self._client.request(method, path, content=content, headers=headers)
        try:
            received: dict[str, Any] = answer.json()
        except ValueError:
            received = {"message": answer.text}
        if answer.is_error:
            raise ApiError(answer.status_code, str(received.get("message", received)))
        return received

    def _define(self, text: str) -> str:
        """Name of the definition in a text, created or replaced."""
        # A definition can be a megabyte, and is not wanted back.
        only_names = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        try:
            made = self._send("POST", _DEFINITIONS, text, "application/yaml", only_names)
        except ApiError as error:
            found = re.search(r'"(\S+)" already exists', error.message)
            if error.status != HTTPStatus.CONFLICT or found is None:
                raise
            path = f"{_DEFINITIONS}/{found[1]}?fieldManager=tests&force=true"
            made = self._send("PATCH", path, text, "application/apply-patch+yaml", only_names)
        return str(made["metadata"]["name"])

    def _serves(self, names: Iterable[str]) -> bool:
        """Whether definitions, named ``plural.group``, are among what the API server says that it serves."""
        served: set[str] = set()
        try:
            for group in {name.partition(".")[2] for name in names}:
                for version in self.get(f"/apis/{group}")["versions"]:
                    resources = self.get(f"/apis/{version['groupVersion']}")["resources"]
                    served |= {f"{resource['name']}.{group}" for resource in resources}
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return served.issuperset(names)

    def _ready(self) -> bool:
        assert self._client is not None
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def _nodes_ready(self) -> bool:
        nodes = self.get("/api/v1/nodes")["items"]
        return len(nodes) == len(self._nodes) and all(
            any(
                found["type"] == "Ready" and found["status"] == "True" for found in node["status"].get("conditions", [])
            )
            and not any(taint["key"].startswith("node.kubernetes.io/") for taint in node["spec"].get("taints", []))
            for node in nodes
        )

    def _accounts_made(self) -> bool:
        try:
            self.get("/api/v1/namespaces/default/serviceaccounts/default")
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True


def condition_of(item: Mapping[str, Any], kind: str) -> str | None:
    """Status of an object's condition: ``True``, ``False``, ``Unknown``, or None where it has no such condition."""
    conditions: list[dict[str, str]] = item.get("status", {}).get("conditions") or []
    return next((condition["status"] for condition in conditions if condition["type"] == kind), None)


def _stage_texts(folder: Path) -> Iterator[str]:
    for part in _STAGES:
        for file in sorted((folder / part).glob("*.yaml")):
            yield file.read_text().rstrip() + "\n"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False
