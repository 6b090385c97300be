"""How far a deletion goes, by the annotation that Pulumi's provider reads: on the real engine and garbage collector."""

import json
import secrets

import pytest
from kubernetes_plugin import propagation  # pyright: ignore[reportMissingImports]

from tests.cluster.control_plane import ControlPlane
from tests.engine.conftest import TinyEngine

OWNERS = """
import pulumi
import pulumi_kubernetes as k8s

for policy in ("foreground", "orphan"):
    k8s.core.v1.ServiceAccount(
        policy,
        metadata={
            "name": policy,
            "namespace": pulumi.Config().require("namespace"),
            "annotations": {"pulumi.com/deletionPropagationPolicy": policy},
        },
    )
"""


def test_what_an_object_owns_is_gone_before_it_or_stays(tiny: TinyEngine, control_plane: ControlPlane) -> None:
    namespace = f"owners-{secrets.token_hex(4)}"
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    engine = tiny(OWNERS, kubeconfig=control_plane.kubeconfig)
    engine.config_set("namespace", namespace)
    engine.up()
    core = f"/api/v1/namespaces/{namespace}"
    for policy in ("foreground", "orphan"):
        uid = control_plane.get(f"{core}/serviceaccounts/{policy}")["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": policy, "uid": uid, "blockOwnerDeletion": True}
        control_plane.request(
            "POST", f"{core}/configmaps", {"metadata": {"name": f"of-{policy}", "ownerReferences": [owner]}}
        )
    engine.destroy()
    left = {item["metadata"]["name"]: item for item in control_plane.get(f"{core}/configmaps")["items"]}
    assert "of-foreground" not in left
    assert "ownerReferences" not in left["of-orphan"]["metadata"], json.dumps(left["of-orphan"])
    control_plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest.mark.parametrize(
    ("kind", "said", "policy"),
    [
        ("v1/ServiceAccount", "foreground", "Foreground"),
        ("v1/ServiceAccount", "Background", "Background"),
        ("apps/v1/Deployment", "ORPHAN", "Orphan"),
        ("apps/v1/Deployment", None, "Foreground"),
        ("ray.io/v1/RayCluster", None, "Foreground"),
        ("v1/ConfigMap", None, "Background"),
    ],
)
def test_the_annotation_says_how_far_a_deletion_goes(kind: str, said: str | None, policy: str) -> None:
    version, _, name = kind.rpartition("/")
    annotations = {} if said is None else {"annotations": {"pulumi.com/deletionPropagationPolicy": said}}
    assert propagation({"apiVersion": version, "kind": name, "metadata": {"name": "x", **annotations}}) == policy
