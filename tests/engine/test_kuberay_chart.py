"""What the stand-in makes of the operator's chart, from the values that the component gives it."""

from typing import Any

import kubernetes_kuberay as kuberay  # pyright: ignore[reportMissingImports]
import pytest
from plugin_kit import Refused  # pyright: ignore[reportMissingImports]

from components.kuberay import operator_values

RULES = [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get"]}]
VALUES = operator_values(["training"], {"modelport.dev/stack": "here"})


def made(values: dict[str, Any]) -> list[dict[str, Any]]:
    return kuberay.render("kuberay", "operators", values, RULES)


def test_the_operator_runs_as_the_component_says_and_has_rights_where_it_watches_only() -> None:
    objects = made(VALUES)
    assert not [one for one in objects if one["kind"].startswith("Cluster")]
    rights = {(one["kind"], one["metadata"]["namespace"]): one for one in objects}
    assert rights["Role", "training"]["rules"] == RULES
    assert rights["RoleBinding", "training"]["subjects"] == [
        {"kind": "ServiceAccount", "name": "kuberay-operator", "namespace": "operators"}
    ]
    election = {resource for rule in rights["Role", "operators"]["rules"] for resource in rule["resources"]}
    assert election == {"configmaps", "events", "leases"}
    pod = rights["Deployment", "operators"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"].startswith("quay.io/kuberay/operator:")
    assert container["args"][:2] == ["--watch-namespace", "training"]
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "kuberay-operator"


@pytest.mark.parametrize("change", [{"crNamespacedRbacEnable": False}, {"leaderElection": True}])
def test_values_that_are_not_emulated_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="kuberay-operator"):
        made({**VALUES, **change})


def test_without_the_operators_rights_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kuberay.RIGHTS_VARIABLE, raising=False)
    assert kuberay.objects({"name": "kuberay", "namespace": "operators", "values": VALUES}) == []
