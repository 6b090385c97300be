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

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from modelport.local.ports import free_ports
from tests.cluster import storage
from tests.cluster.client import ApiError, ClusterError, condition_of
from tests.cluster.configuration import egress_configuration, write_json
from tests.cluster.kept import PROGRAMS, Kept
from tests.cluster.nodes import GKE_NODES, Node
from tests.plain_http import HTTP
from tools import crds, program, stages

__all__ = ["SERVICE_NETWORK", "ApiError", "ClusterError", "ControlPlane", "condition_of"]

SERVICE_NETWORK = "10.96.0.0/16"
"""Where Services get their addresses."""

_HERE = Path(__file__).resolve().parent
# Endpoints of the API server's own Service must not be a loopback address; nobody connects to this one.
_ADVERTISED = "192.0.2.1"
_POD_SOCKET = "pods.sock"
_RAY_JOB_STATUS = "ray-job-status"
_STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")


class ControlPlane(Kept):
    """A control plane of its own; see `Kept`.

    Args:
        nodes: what pods can be scheduled on.
    """

    def __init__(self, nodes: Sequence[Node] = GKE_NODES) -> None:
        super().__init__()
        self._nodes = tuple(nodes)
        self._ray_operator = False

    def start(self) -> None:
        """Bring it up: when this returns, pods are scheduled, and claims are bound.

        Raises:
            ClusterError: a process ended, or something took longer than a minute.
        """
        programs = {name: program(name) for name in (*PROGRAMS, "kwok")}
        state = Path(tempfile.mkdtemp(prefix="modelport-cluster-"))
        self._keep(state, [sys.executable, "-I", _HERE / "keeper.py", state])
        try:
            self._bring_up(programs)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process and remove every file; does nothing when that has been done."""
        super().stop()
        self._ray_operator = False

    def start_ray_operator(self) -> None:
        """Start KubeRay's real operator on the control plane, with its definitions; once, whoever asks again.

        It acts as the administrator: whether the rights of its chart suffice is not seen here.

        Raises:
            ClusterError: it ended, or is not ready within a minute.
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

    # Bringing it up

    def _bring_up(self, programs: Mapping[str, Path]) -> None:
        port = free_ports(1)[0]
        write_json(self.state / "egress.json", egress_configuration(self.state / _POD_SOCKET))
        self._start_api_server(
            programs,
            bind="127.0.0.1",
            port=port,
            url=f"https://127.0.0.1:{port}",
            advertised=_ADVERTISED,
            services=SERVICE_NETWORK,
            more=["--egress-selector-config-file=egress.json"],
        )
        self.wait_for("kube-apiserver", "is ready", self._ready)
        self._start_controllers(programs, self.kubeconfig)
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
        self._launch_ours("storage", self.kubeconfig)
        self.apply(*storage.manifests(), *(node.manifest() for node in self._nodes))
        self.wait_for("kwok", "makes every node ready", self._nodes_ready)
        self.wait_for("kube-controller-manager", "makes service accounts", self._accounts_made)

    def _nodes_ready(self) -> bool:
        nodes = self.get("/api/v1/nodes")["items"]
        return len(nodes) == len(self._nodes) and all(
            condition_of(node, "Ready") == "True"
            and not any(taint["key"].startswith("node.kubernetes.io/") for taint in node["spec"].get("taints", []))
            for node in nodes
        )


def _stage_texts(folder: Path) -> Iterator[str]:
    for part in _STAGES:
        for file in sorted((folder / part).glob("*.yaml")):
            yield file.read_text().rstrip() + "\n"


def _answers(url: str) -> bool:
    try:
        return HTTP.get(url).is_success
    except httpx.TransportError:
        return False
