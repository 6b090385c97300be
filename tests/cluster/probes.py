"""Pods that run `tools/probe`: they serve, and are told to ask each other."""

import os
from typing import Any

from tests.cluster.client import Client, ClusterError, condition_of

IMAGE = os.environ.get("MODELPORT_TEST_PROBE_IMAGE", "images.modelport.dev/probe:test")
PORT = 8080


def probe(*arguments: str, memory: str = "32Mi", **more: Any) -> dict[str, Any]:
    """Spec of a pod under the restricted standard."""
    container = {
        "name": "probe",
        "image": IMAGE,
        "args": list(arguments),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"requests": {"cpu": "10m", "memory": memory}, "limits": {"memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **more.pop("container", {}),
    }
    secure = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "containers": [container],
        "securityContext": secure,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        **more,
    }


def pod(namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(namespace: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]},
    }


def get_pod(cluster: Client, namespace: str, name: str) -> dict[str, Any]:
    return cluster.get(f"/api/v1/namespaces/{namespace}/pods/{name}")


def run(cluster: Client, namespace: str, *pods: dict[str, Any]) -> None:
    """Apply pods, and wait until they are ready."""
    cluster.apply(*pods)
    for applied in pods:
        name = applied["metadata"]["name"]
        cluster.wait_for(
            "kubelet",
            f"runs {name}",
            lambda name=name: condition_of(get_pod(cluster, namespace, name), "Ready") == "True",
        )


def ask(cluster: Client, namespace: str, name: str, url: str) -> str:
    """What a pod is answered, or the error that it gets."""
    try:
        return cluster.kubectl("exec", f"--namespace={namespace}", name, "--", "/probe", "get", url).strip()
    except ClusterError as error:
        return str(error)


def reaches(cluster: Client, namespace: str, name: str, url: str) -> None:
    """Wait until a pod is answered by the pod `web`."""
    cluster.wait_for("kube-proxy", f"lets {name} reach {url}", lambda: ask(cluster, namespace, name, url) == "web")
