"""What tests of the infrastructure rely on: admission, scheduling, storage, KubeRay's operator, and a clean end."""

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.client import ApiError, ClusterError, condition_of
from tests.cluster.control_plane import ControlPlane
from tests.cluster.leftovers import processes_of

ROOT = Path(__file__).resolve().parents[2]
RESTRICTED_POD = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def pod_spec(container: str = "main", *, restricted: bool = True, gpus: int = 0, **more: Any) -> dict[str, Any]:
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    if gpus:
        resources["limits"]["nvidia.com/gpu"] = str(gpus)
    only: dict[str, Any] = {"name": container, "image": "registry.test/image:1", "resources": resources}
    if restricted:
        only["securityContext"] = RESTRICTED_CONTAINER
        more["securityContext"] = RESTRICTED_POD
    return {"containers": [only], **more}


def workload(kind: str, namespace: str, name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **more},
    }


def ray_job(namespace: str, name: str, *, restricted: bool = True) -> dict[str, Any]:
    def template(container: str, **more: Any) -> dict[str, Any]:
        return {"spec": pod_spec(container, restricted=restricted, **more)}

    group = {"groupName": "cpu", "replicas": 1, "minReplicas": 1, "maxReplicas": 1, "rayStartParams": {}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "entrypoint": "python train.py",
            "submitterPodTemplate": template("submitter", restartPolicy="Never"),
            "rayClusterSpec": {
                "rayVersion": "2.60.0",
                "authOptions": {"mode": "token"},
                "headGroupSpec": {"rayStartParams": {}, "template": template("ray-head")},
                "workerGroupSpecs": [{**group, "template": template("ray-worker")}],
            },
        },
    }


def pods(control_plane: ControlPlane, namespace: str, selector: str = "") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = control_plane.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")[
        "items"
    ]
    return items


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    control_plane.request("DELETE", f"/api/v1/namespaces/{name}")


class TestAdmission:
    def test_a_pod_outside_the_standard_is_refused(self, control_plane: ControlPlane, namespace: str) -> None:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod_spec(restricted=False)}

        with pytest.raises(ApiError, match='violates PodSecurity "restricted:latest"') as refusal:
            control_plane.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod)

        assert refusal.value.status == 403
        assert "allowPrivilegeEscalation" in refusal.value.message

    def test_an_unknown_field_is_refused(self, control_plane: ControlPlane, namespace: str) -> None:
        deployment = workload("Deployment", namespace, "typo", pod_spec(), replica=2)

        with pytest.raises(ClusterError, match='unknown field "replica"'):
            control_plane.apply(deployment)


class TestDefinitions:
    @staticmethod
    def definition(field: str) -> str:
        return textwrap.dedent(f"""\
            # A comment of who made it.
            ---
            apiVersion: apiextensions.k8s.io/v1
            kind: CustomResourceDefinition
            metadata:
              name: masks.imaging.test
            spec:
              group: imaging.test
              names: {{kind: Mask, listKind: MaskList, plural: masks, singular: mask}}
              scope: Namespaced
              versions:
              - name: v1
                served: true
                storage: true
                schema:
                  openAPIV3Schema:
                    type: object
                    properties: {{spec: {{type: object, properties: {{{field}: {{type: string, enum: ["=", off]}}}}}}}}
            """)

    def test_they_serve_at_once_and_can_be_replaced(
        self, control_plane: ControlPlane, namespace: str, tmp_path: Path
    ) -> None:
        place = f"/apis/imaging.test/v1/namespaces/{namespace}/masks"
        mask = {"apiVersion": "imaging.test/v1", "kind": "Mask", "metadata": {"name": "m"}}
        for field in ("old", "new"):
            (tmp_path / "masks.yaml").write_text(self.definition(field))
            control_plane.apply_crds(tmp_path)
            strict = f"{place}?fieldValidation=Strict"

            def accepted(field: str = field, strict: str = strict) -> bool:
                try:
                    control_plane.request("POST", strict, {**mask, "spec": {field: "="}})
                except ApiError as error:
                    # A definition that was replaced is read anew a moment later.
                    if "unknown field" not in error.message:
                        raise
                    return False
                return True

            control_plane.wait_for("kube-apiserver", f"knows the {field} field", accepted, 10)
            control_plane.request("DELETE", f"{place}/m")


class TestScheduling:
    def test_gpu_nodes_take_only_who_tolerates_them(self, control_plane: ControlPlane, namespace: str) -> None:
        l4 = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
        control_plane.apply(
            workload(
                "Deployment", namespace, "tolerant", pod_spec(gpus=1, nodeSelector=l4, tolerations=[GPU_TOLERATION])
            ),
            workload("Deployment", namespace, "intolerant", pod_spec(gpus=1, nodeSelector=l4)),
        )

        def ready() -> bool:
            found = control_plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/tolerant")
            return found["status"].get("readyReplicas") == 1

        control_plane.wait_for("kwok", "makes the Deployment ready", ready, 20)
        (placed,) = pods(control_plane, namespace, "app=tolerant")
        node = control_plane.get(f"/api/v1/nodes/{placed['spec']['nodeName']}")
        assert node["metadata"]["labels"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"

        def refused() -> dict[str, Any] | None:
            (waiting,) = pods(control_plane, namespace, "app=intolerant")
            return waiting if condition_of(waiting, "PodScheduled") == "False" else None

        waiting = control_plane.wait_for("kube-scheduler", "tries the other pod", refused, 20)
        assert "nodeName" not in waiting["spec"]
        assert "2 node(s) had untolerated taint(s)" in waiting["status"]["conditions"][0]["message"]


class TestStorage:
    def test_a_claim_is_bound_and_its_volume_goes_with_it(self, control_plane: ControlPlane, namespace: str) -> None:
        size = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
        claims = [{"metadata": {"name": "data"}, "spec": size}]
        control_plane.apply(workload("StatefulSet", namespace, "store", pod_spec(), volumeClaimTemplates=claims))

        def ready() -> bool:
            found = control_plane.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/store")
            return found["status"].get("readyReplicas") == 1

        control_plane.wait_for("storage", "lets the StatefulSet get ready", ready, 20)
        place = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/data-store-0"
        claim = control_plane.get(place)
        assert claim["status"]["phase"] == "Bound"
        assert claim["spec"]["storageClassName"] == "standard-rwo"
        assert claim["status"]["capacity"] == {"storage": "5Gi"}

        control_plane.request("DELETE", f"/apis/apps/v1/namespaces/{namespace}/statefulsets/store")
        control_plane.request("DELETE", place)

        def gone() -> bool:
            volumes = control_plane.get("/api/v1/persistentvolumes")["items"]
            return claim["spec"]["volumeName"] not in {volume["metadata"]["name"] for volume in volumes}

        control_plane.wait_for("storage", "removes the volume", gone, 20)


class TestRay:
    @pytest.fixture
    def operator(self, control_plane: ControlPlane) -> ControlPlane:
        control_plane.start_ray_operator()
        return control_plane

    @pytest.fixture(params=["SUCCEEDED", "FAILED"])
    def end(self, operator: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
        operator.end_ray_jobs(request.param)
        yield request.param
        operator.end_ray_jobs("SUCCEEDED")

    def test_a_job_gets_a_ready_cluster_and_ends(self, operator: ControlPlane, namespace: str, end: str) -> None:
        name = f"job-{end.lower()}"
        operator.apply(ray_job(namespace, name))

        def over() -> dict[str, Any] | None:
            status = operator.get(f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs/{name}").get("status", {})
            return status if status.get("jobDeploymentStatus") in ("Complete", "Failed") else None

        status = operator.wait_for("ray-operator", "brings the RayJob to its end", over, 20)
        assert (status["jobStatus"], status["jobDeploymentStatus"]) == (
            (end, "Complete") if end == "SUCCEEDED" else (end, "Failed")
        )
        assert status["rayClusterStatus"]["state"] == "ready"
        cluster = pods(operator, namespace, f"ray.io/cluster={status['rayClusterName']}")
        assert {pod["metadata"]["labels"]["ray.io/node-type"] for pod in cluster} == {"head", "worker"}
        assert all(condition_of(pod, "Ready") == "True" for pod in cluster)

    def test_a_job_outside_the_standard_gets_no_pod(self, operator: ControlPlane, namespace: str) -> None:
        operator.apply(ray_job(namespace, "lax", restricted=False))

        def complaint() -> str | None:
            events = operator.get(f"/api/v1/namespaces/{namespace}/events")["items"]
            return next((event["message"] for event in events if "PodSecurity" in event["message"]), None)

        message = operator.wait_for("ray-operator", "is refused a pod", complaint, 20)
        assert "restricted:latest" in message
        assert pods(operator, namespace) == []


class TestItsOwnLife:
    def test_a_wait_that_fails_shows_the_end_of_the_log(self, control_plane: ControlPlane) -> None:
        with pytest.raises(ClusterError) as failure:
            control_plane.wait_for("kube-apiserver", "does what it never does", lambda: None, 0.1)

        assert str(failure.value).startswith("not within 0 s: kube-apiserver does what it never does\n")
        assert control_plane.log("kube-apiserver", 1) in str(failure.value)

    def test_stopping_it_leaves_nothing(self) -> None:
        with ControlPlane(nodes=()) as running:
            state = running.state
            started = processes_of(state)
            kubeconfig = running.kubeconfig
            assert kubeconfig.stat().st_mode & 0o077 == 0, "the administrator's token is for this user only"
        assert {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"} <= set(started)
        assert processes_of(state) == []
        assert not state.exists()
        running.stop()

    def test_it_ends_with_the_process_that_started_it(self, tmp_path: Path) -> None:
        script = (
            "from tests.cluster.control_plane import ControlPlane\n"
            "running = ControlPlane(nodes=())\n"
            "running.start()\n"
            "print(running.state, flush=True)\n"
            "input()\n"
        )
        starter = subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert starter.stdout is not None
        state = Path(starter.stdout.readline().strip())
        assert "kube-apiserver" in processes_of(state)

        os.kill(starter.pid, signal.SIGKILL)
        starter.communicate()

        deadline = time.monotonic() + 60
        while (processes_of(state) or state.exists()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_of(state) == []
        assert not state.exists()
