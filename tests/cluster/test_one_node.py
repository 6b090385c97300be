"""What tests on the real cluster rely on: pods run, reach each other or not, keep their data, and leave nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster import volumes
from tests.cluster.client import ApiError, condition_of
from tests.cluster.leftovers import Traces
from tests.cluster.meter import Asked, PodUsed
from tests.cluster.one_node import OneNode
from tests.cluster.probes import PORT, ask, get_pod, pod, probe, reaches, run, service

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


class TestPods:
    def test_they_run_and_reach_each_other_by_the_name_of_a_service(self, one_node: OneNode, room: str) -> None:
        one_node.apply(service(room, "web"))
        run(
            one_node,
            room,
            pod(room, "web", probe("serve", str(PORT))),
            pod(room, "user", probe("serve", str(PORT))),
        )

        full = f"http://web.{room}.svc.cluster.local/"
        reaches(one_node, room, "user", full)
        assert ask(one_node, room, "user", "http://web/") == "web", "within a namespace the short name does"
        assert ask(one_node, room, "web", full) == "web", "through its own Service, too"
        assert "no such host" in ask(one_node, room, "user", "http://nobody/")

    def test_one_outside_the_standard_is_refused(self, one_node: OneNode, room: str) -> None:
        lax = pod(room, "lax", probe("serve", str(PORT), securityContext={}))

        with pytest.raises(ApiError, match='violates PodSecurity "restricted:latest"'):
            one_node.request("POST", f"/api/v1/namespaces/{room}/pods", lax)

    def test_memory_is_measured_limits_hold_and_the_report_tells(self, one_node: OneNode, room: str) -> None:
        run(one_node, room, pod(room, "modest", probe("fill", "40", memory="80Mi")))
        one_node.apply(pod(room, "greedy", probe("fill", "80", memory="40Mi", restartPolicy="Never")))
        one_node.wait_for("kubelet", "ends who takes too much", lambda: "OOMKilled" in one_node.report())

        def used(name: str) -> PodUsed:
            return next((one for one in one_node.pods_used() if one.pod == f"{room}/{name}"), PodUsed())

        one_node.wait_for("meter", "sees what was filled", lambda: used("modest").current > 40 * MIB)
        assert used("modest").peak < 60 * MIB
        assert used("modest").asked == Asked(cpu=0.01, cpu_limit=None, memory=80 * MIB, memory_limit=80 * MIB)
        assert used("modest").cpu_s > 0
        assert used("modest").killed_for_memory == []
        one_node.wait_for("meter", "notes who was killed", lambda: used("greedy").killed_for_memory == ["probe"])
        assert one_node.memory() > 300 * MIB, "the control plane is in it"
        report = one_node.report()
        assert f"pod {room}/greedy is not ready" in report
        assert "modest" not in report

    def test_the_events_and_logs_of_one_that_cannot_start(self, one_node: OneNode, room: str) -> None:
        one_node.apply(pod(room, "lost", probe("run", "away", restartPolicy="Never")))
        one_node.wait_for("kubelet", "runs it to its end", lambda: phase(one_node, room, "lost") == "Failed")

        assert "Started Pod lost" in one_node.events(room)
        assert "unknown command run" in one_node.logs(room)
        assert "unknown command run" in one_node.report()

    def test_no_program_of_theirs_runs_before_the_policies_hold(self, one_node: OneNode, room: str) -> None:
        """Each asks as the first thing that it does; an enforcer that hears of pods from the API server is too late."""
        run(one_node, room, pod(room, "web", probe("serve", str(PORT))))
        closed = {"podSelector": {}, "policyTypes": ["Egress"]}
        metadata = {"namespace": room, "name": "closed"}
        one_node.apply(
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": closed}
        )
        url = f"http://{get_pod(one_node, room, 'web')['status']['podIP']}:{PORT}/"
        names = [f"hasty-{number}" for number in range(5)]
        one_node.apply(*(pod(room, name, probe("get", url, restartPolicy="Never")) for name in names))

        for name in names:
            one_node.wait_for(
                "kubelet", f"ends {name}", lambda name=name: phase(one_node, room, name) in ("Failed", "Succeeded")
            )
            assert phase(one_node, room, name) == "Failed", one_node.logs(room)


def phase(one_node: OneNode, room: str, name: str) -> str:
    return get_pod(one_node, room, name)["status"]["phase"]


class TestStorage:
    def test_data_survives_its_pod_and_goes_with_its_claim(self, one_node: OneNode, room: str) -> None:
        first = store(one_node, room, size="1Gi")
        place = f"/api/v1/namespaces/{room}/pods/store-0"
        file = f"{place}:{PORT}/proxy/data/file"
        one_node.request("PUT", file, {"kept": first})

        one_node.request("DELETE", place)
        one_node.wait_for("kubelet", "runs the next pod", lambda: ready(one_node, place, but=first))
        assert one_node.get(file) == {"kept": first}

        claims = f"/api/v1/namespaces/{room}/persistentvolumeclaims"
        (volume,) = (claim["spec"]["volumeName"] for claim in one_node.get(claims)["items"])
        folder = one_node.state / "volumes" / volume
        assert (folder / "file").is_file()
        one_node.request("DELETE", f"/apis/apps/v1/namespaces/{room}/statefulsets/store")
        one_node.request("DELETE", f"{claims}/data-store-0")
        one_node.wait_for("volumes", "removes the folder", lambda: not folder.exists())
        path = f"/api/v1/persistentvolumes/{volume}"
        one_node.wait_for("volumes", "forgets the volume", lambda: one_node.find(path) is None)

    def test_a_disk_gets_full_and_goes_with_its_claim(self, one_node: OneNode, room: str) -> None:
        store(one_node, room, size="16Mi", storageClassName=volumes.DISK)
        file = f"/api/v1/namespaces/{room}/pods/store-0:{PORT}/proxy/data/file"

        one_node.request("PUT", file, {"fits": "x" * MIB})
        with pytest.raises(ApiError, match="no space left"):
            one_node.request("PUT", f"{file}-2", {"does not": "x" * 20 * MIB})

        folder = one_node.state / "volumes"
        assert list(folder.glob("*.disk"))
        one_node.request("DELETE", f"/apis/apps/v1/namespaces/{room}/statefulsets/store")
        one_node.request("DELETE", f"/api/v1/namespaces/{room}/persistentvolumeclaims/data-store-0")
        one_node.wait_for("volumes", "removes the disk", lambda: not list(folder.glob("*.disk")))


def store(one_node: OneNode, room: str, *, size: str, **claim: Any) -> str:
    """Bring up a StatefulSet `store` that keeps files, and its one pod's uid."""
    template = {
        "metadata": {"labels": {"app": "store"}},
        "spec": probe(
            "serve", str(PORT), memory="128Mi", container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
        ),
    }
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **claim}
    one_node.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"namespace": room, "name": "store"},
            "spec": {
                "serviceName": "store",
                "selector": {"matchLabels": {"app": "store"}},
                "template": template,
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": wanted}],
            },
        }
    )
    place = f"/api/v1/namespaces/{room}/pods/store-0"
    return one_node.wait_for("volumes", "lets the pod run", lambda: ready(one_node, place))


def ready(one_node: OneNode, place: str, but: str = "") -> str | None:
    """The uid of a pod that is ready, if it is not this one."""
    found = one_node.find(place)
    if found is None or condition_of(found, "Ready") != "True":
        return None
    uid: str = found["metadata"]["uid"]
    return uid if uid != but else None


class TestFaults:
    def test_pods_outlive_their_runtime(self, one_node: OneNode, room: str) -> None:
        run(one_node, room, pod(room, "web", probe("serve", str(PORT))))
        path = f"/api/v1/namespaces/{room}/pods/web:{PORT}/proxy/"

        one_node.restart_containerd()

        assert one_node.get(path) == {"message": "web\n"}
        reaches(one_node, room, "web", f"http://127.0.0.1:{PORT}/")
        (status,) = get_pod(one_node, room, "web")["status"]["containerStatuses"]
        assert status["restartCount"] == 0


class TestItsOwnLife:
    def test_however_it_ends_nothing_stays_but_images(self, machine: None, tmp_path: Path) -> None:
        # Killed with everything that would have cleaned up: the next start does.
        starter, traces, images = started(tmp_path)
        assert images
        inside = psutil.Process(int((traces.state / "cell.pid").read_text()))
        cell = inside.parent()
        assert cell is not None
        cell.kill()
        kill(starter)
        deadline = time.monotonic() + 60
        while any("process" in what for what in traces.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert str(traces.state) in traces.left(), "nobody was left to remove it"
        killed = traces

        # Stopped, twice.
        with OneNode(tmp_path) as running:
            assert not killed.state.exists()
            traces = Traces.of(running.state)
            assert any("containerd-shim" in name for name in traces.left()), "a pod is running"
            assert running.images() == images
            assert running.kubeconfig.stat().st_mode & 0o077 == 0, "the administrator's token is for this user only"
        assert traces.left() == killed.left() == []
        running.stop()

        # It ends with the process that started it.
        starter, traces, still = started(tmp_path)
        assert still == images
        kill(starter)
        assert traces.left_after(seconds=60) == []

    def test_it_ends_with_the_process_that_was_starting_it(self, machine: None, tmp_path: Path) -> None:
        starter = starting(tmp_path)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("state")) or not (log_of(tmp_path, "etcd")).is_file():
            assert starter.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        traces = Traces.of(Path((tmp_path / "state").read_text()))
        assert not (traces.state / "log" / "kubelet.log").exists(), "it is not up yet"

        kill(starter)

        assert traces.left_after(seconds=60) == []


def log_of(root: Path, process: str) -> Path:
    """Log of a cluster's process, by the folder of the cluster's images."""
    return Path((root / "state").read_text()) / "log" / f"{process}.log"


def starting(root: Path) -> subprocess.Popen[str]:
    """A process that starts a cluster, says where and with which images, and waits."""
    script = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tests.cluster.one_node import OneNode\n"
        "running = OneNode(Path(sys.argv[1]))\n"
        "running.start()\n"
        "print(json.dumps([str(running.state), running.images()]), flush=True)\n"
        "input()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, root], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def started(root: Path) -> tuple[subprocess.Popen[str], Traces, list[str]]:
    """Such a process when the cluster is up, the cluster's traces, and the names of its images."""
    starter = starting(root)
    assert starter.stdout is not None
    state, images = json.loads(starter.stdout.readline())
    return starter, Traces.of(Path(state)), images


def kill(starter: subprocess.Popen[str]) -> None:
    os.kill(starter.pid, signal.SIGKILL)
    starter.communicate()
