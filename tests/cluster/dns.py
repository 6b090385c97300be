"""The cluster's DNS: CoreDNS as a pod of kube-system, where policies that allow DNS expect it."""

from typing import Any

IMAGE = "registry.k8s.io/coredns/coredns:v1.15.0"
"""Made of CoreDNS's program here; nothing is pulled."""

_NAME = "coredns"
_NAMESPACE = "kube-system"
_LABELS = {"k8s-app": "kube-dns"}
_COREFILE = """\
cluster.local:53 in-addr.arpa:53 {
    errors
    ready
    kubernetes
    cache 5
}
.:53 {
    template ANY ANY {
        rcode NXDOMAIN
    }
}
"""
"""Nothing outside of the cluster is known; who asks is told so, and need not ask again."""


def manifests(address: str) -> list[dict[str, Any]]:
    """The Deployment, its rights, and the Service at an address."""
    metadata = {"name": _NAME, "namespace": _NAMESPACE}
    reads = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    rights = "rbac.authorization.k8s.io"
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{rights}/v1", "kind": "ClusterRole", "metadata": {"name": _NAME}, "rules": reads},
        {
            "apiVersion": f"{rights}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _NAME},
            "roleRef": {"apiGroup": rights, "kind": "ClusterRole", "name": _NAME},
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": _COREFILE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": _pod()},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": _NAMESPACE},
            "spec": {"clusterIP": address, "selector": _LABELS, "ports": ports},
        },
    ]


def _pod() -> dict[str, Any]:
    return {
        "serviceAccountName": _NAME,
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "containers": [
            {
                "name": _NAME,
                "image": IMAGE,
                "args": ["-conf", "/etc/coredns/Corefile"],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    # Port 53, not as root.
                    "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                },
                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
            }
        ],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "config", "configMap": {"name": _NAME}}],
    }
