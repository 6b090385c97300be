"""What the chart of KubeRay's operator makes beside its kinds, from its values: the operator itself, and its rights.

For clusters in which pods run. The rules are those of the operator's own Go module, which its chart repeats; the shape
follows the chart, so that values which the chart would not take do not work here either.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from plugin_kit import Refused

RIGHTS_VARIABLE = "MODELPORT_TEST_KUBERAY_RIGHTS"
"""Environment variable: file with the operator's ClusterRole. Where it is set, the release runs pods."""

Object = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"
_USED = frozenset(
    {
        *("nameOverride", "fullnameOverride", "componentOverride", "labels", "image", "watchNamespace"),
        *("singleNamespaceInstall", "rbacEnable", "crNamespacedRbacEnable", "resources", "podSecurityContext"),
        "securityContext",
    }
)


def objects(inputs: Mapping[str, Any]) -> list[Object]:
    """The objects of a release, in the order in which they are applied; none where no pods run.

    Raises:
        Refused: the release has values that are not emulated.
    """
    file = os.environ.get(RIGHTS_VARIABLE)
    if not file:
        return []
    role = next(part for part in yaml.safe_load_all(Path(file).read_text()) if part and part["kind"] == "ClusterRole")
    return render(inputs["name"], inputs["namespace"], inputs.get("values", {}), role["rules"])


def render(release: str, namespace: str, values: Mapping[str, Any], rules: Sequence[Any]) -> list[Object]:
    """As the chart renders it. Pure.

    Args:
        release: name of the release.
        namespace: where it is installed.
        values: the release's values.
        rules: what the operator may do where it watches.

    Raises:
        Refused: there are values that are not emulated, or rights for the whole cluster are asked for.
    """
    if unknown := sorted(values.keys() - _USED):
        raise Refused(f"kuberay-operator: the stand-in emulates no value {', '.join(unknown)}")
    if not all(values.get(key) for key in ("singleNamespaceInstall", "rbacEnable", "crNamespacedRbacEnable")):
        raise Refused("kuberay-operator: the stand-in emulates rights in the watched namespaces only")
    name = values.get("fullnameOverride") or release
    chart_name = values.get("nameOverride") or "kuberay-operator"
    labels = {
        "app.kubernetes.io/name": chart_name,
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/managed-by": "Helm",
    }
    watched: list[str] = values.get("watchNamespace") or [namespace]
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    election = f"{name}-leader-election"
    account: Object = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
    }
    rights = [
        part
        for place, own_name, own_rules in [
            *((one, name, list(rules)) for one in watched),
            (namespace, election, _ELECTION),
        ]
        for part in (
            _rbac("Role", own_name, place, labels, {"rules": own_rules}),
            _rbac(
                "RoleBinding",
                own_name,
                place,
                labels,
                {"roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": own_name}, "subjects": [subject]},
            ),
        )
    ]
    return [account, *rights, _deployment(name, namespace, watched, values, labels)]


def _deployment(
    name: str, namespace: str, watched: Sequence[str], values: Mapping[str, Any], labels: Mapping[str, str]
) -> Object:
    chosen = {key: labels[key] for key in ("app.kubernetes.io/name", "app.kubernetes.io/instance")}
    component = values.get("componentOverride") or "kuberay-operator"
    extra = values.get("labels", {})
    probe = {"httpGet": {"path": "/metrics", "port": "http"}, "initialDelaySeconds": 10, "periodSeconds": 5}
    image = values["image"]
    container: Object = {
        "name": "kuberay-operator",
        "image": f"{image['repository']}:{image['tag']}",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": values.get("securityContext", {}),
        "command": ["/manager"],
        "args": ["--watch-namespace", ",".join(watched), "--enable-leader-election=true"],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "livenessProbe": {**probe, "failureThreshold": 5},
        "readinessProbe": {**probe, "failureThreshold": 5},
        "resources": values.get("resources", {}),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {**labels, **extra}},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": chosen},
            "template": {
                "metadata": {"labels": {**chosen, "app.kubernetes.io/component": component, **extra}},
                "spec": {
                    "serviceAccountName": name,
                    "securityContext": values.get("podSecurityContext", {}),
                    "containers": [container],
                },
            },
        },
    }


def _rbac(kind: str, name: str, namespace: str, labels: Mapping[str, str], content: Object) -> Object:
    metadata = {"name": name, "namespace": namespace, "labels": dict(labels)}
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": metadata, **content}


_ELECTION: list[Object] = [
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "list", "update"]},
]
