"""What the garbage collector of a cluster knows: it looks for new kinds every half minute only."""

import secrets

from tests.cluster.client import Client

PATIENCE_S = 120.0


def collected(cluster: Client, namespace: str) -> None:
    """Wait until RayJobs go with what they belong to: one is made whose owner never was."""
    name = f"owned-{secrets.token_hex(4)}"
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": name, "uid": name}
    pod = {"spec": {"containers": [{"name": "ray-head", "image": "registry.test/platform:1"}]}}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {
            "entrypoint": "true",
            # The operator leaves it alone.
            "managedBy": "kueue.x-k8s.io/multikueue",
            "rayClusterSpec": {"headGroupSpec": {"rayStartParams": {}, "template": pod}},
        },
    }
    cluster.request("POST", path, job)
    cluster.wait_for(
        "kube-controller-manager", "knows RayJobs", lambda: cluster.find(f"{path}/{name}") is None, PATIENCE_S
    )
