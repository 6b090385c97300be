"""The end of dev: what needs something goes before it, and nothing is left."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from modelport.training.rayjob import owner_reference
from tests.cluster.control_plane import ControlPlane
from tests.cluster.garbage import collected
from tests.infra.conftest import Up

CORE = "/api/v1/namespaces/modelport-training"
BATCH = "/apis/batch/v1/namespaces/modelport-training"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/modelport-training"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/modelport-operators/networkpolicies"
ACCOUNT = f"{CORE}/serviceaccounts/polyp-seg-ray"
OF_THE_OPERATOR = (
    "/apis/apps/v1/namespaces/modelport-operators/deployments/kuberay-operator",
    f"{RBAC}/roles/kuberay-operator",
    f"{RBAC}/rolebindings/kuberay-operator",
    f"{POLICIES}/default-deny",
    f"{POLICIES}/allow-dns",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rayjobs.ray.io",
)
RAYJOBS = "/apis/ray.io/v1/namespaces/modelport-training/rayjobs"
PATIENCE_S = 240.0


def test_the_policies_listed_what_is_not_pinned_yet(dev: Up):
    assert any("image-digest" in text for text in dev.first_up.diagnostics)


def test_destroy_goes_in_order_and_leaves_nothing(dev: Up):
    """The last of this stack's tests: nothing is there afterwards."""
    cluster = dev.cluster
    before = dev.engine.export()["deployment"]["resources"]
    check_order(before)
    # The chart brings the operator, too; nothing runs in its pod, so that we end RayJobs in its place.
    collected(cluster, "modelport-training")
    job = train(cluster)
    with ThreadPoolExecutor(1) as pool:
        destroying = pool.submit(dev.engine.destroy)
        try:
            cluster.wait_for(
                "kube-controller-manager",
                "deletes the RayJob",
                lambda: destroying.done() or "deletionTimestamp" in cluster.get(job)["metadata"],
                PATIENCE_S,
            )
            assert not destroying.done(), "it waits for the RayJob"
            assert cluster.find(ACCOUNT)
            assert cluster.get(f"{BATCH}/cronjobs")["items"] == [], "nothing submits any more"
            for needed in OF_THE_OPERATOR:
                assert "deletionTimestamp" not in cluster.get(needed)["metadata"], needed
        finally:
            nothing = {"metadata": {"finalizers": None}}
            cluster.request("PATCH", job, nothing, content_type="application/merge-patch+json")
        destroyed = destroying.result()
    assert {step.urn for step in destroyed.deleted} == {step.urn for step in dev.first_up.created}
    assert dev.engine.export()["deployment"].get("resources", []) == []
    namespaces = [item["metadata"]["name"] for item in cluster.get("/api/v1/namespaces")["items"]]
    assert [name for name in namespaces if name.startswith("modelport-")] == []
    assert json.loads(Path(dev.engine.env["MODELPORT_TEST_GCP"]).read_text())["resources"] == {}


def check_order(resources: list[dict[str, Any]]) -> None:
    """What submits goes before what trainings belong to, and that before what ends them."""
    (account,) = [each["urn"] for each in resources if each["urn"].endswith("ServiceAccount::polyp-seg-training-ray")]
    (operator,) = [each["urn"] for each in resources if each["urn"].endswith("Release::kuberay")]
    submitting = [each for each in resources if "Training$kubernetes:batch/" in each["urn"]]
    submitting = [each for each in submitting if each["urn"].rpartition("::")[2].startswith("polyp-seg-")]
    assert len(submitting) == 3
    for each in submitting:
        assert account in each["dependencies"], each["urn"]
    assert operator in ancestors(resources, account)
    policies = [each["urn"] for each in resources if each["type"].endswith(":NetworkPolicy")]
    for space, until in (("training", account), ("operators", operator)):
        needed = {urn for urn in policies if urn.rpartition("::")[2].startswith(f"{space}-")}
        assert needed
        assert needed <= ancestors(resources, until)


def ancestors(resources: list[dict[str, Any]], urn: str) -> set[str]:
    """What a resource depends on, and what that depends on: all of it is deleted later."""
    by_urn: Mapping[str, dict[str, Any]] = {each["urn"]: each for each in resources}
    found: set[str] = set()
    left = [urn]
    while left:
        for other in by_urn[left.pop()].get("dependencies") or ():
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def train(cluster: ControlPlane) -> str:
    """Submit a training that KubeRay's operator has seen; its path."""
    template = json.loads(cluster.get(f"{CORE}/configmaps/polyp-seg-rayjob")["data"]["rayjob.json"])
    owner = owner_reference(cluster.get(ACCOUNT), "the account")
    name = "polyp-seg-0123456789ab"
    template["metadata"].update(name=name, ownerReferences=[owner], finalizers=["ray.io/rayjob-finalizer"])
    cluster.request("POST", RAYJOBS, template)
    return f"{RAYJOBS}/{name}"
