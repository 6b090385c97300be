"""Kubernetes manifests of what Pulumi knows: objects, and the pods that controllers and operators make from them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from policy.resources import Resource, from_state, mapping, pod_templates

HIDDEN = "hidden"
"""Stands in manifests for whatever is in a Secret."""


def resources_of(records: Iterable[Mapping[str, Any]]) -> list[Resource]:
    """Resources of an exported state or a recording: mappings with ``type``, ``urn`` or ``name``, and ``inputs``."""
    return [from_state(record) for record in records]


def objects(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """The manifest of every object in the cluster, as an API server would get it; contents of Secrets are hidden."""
    return [_object(resource) for resource in resources if resource.is_kubernetes_object]


def pods(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """A Pod for every pod template, those in RayJobs and in manifests that ConfigMaps carry too.

    A Pod is called ``<object>-<place>``, has its template's labels, and lies where it would run.
    """
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **_plain(template.metadata),
                "name": _name(f"{resource.object_name}-{template.place}"),
                "namespace": template.namespace or "default",
            },
            "spec": _plain(template.spec),
        }
        for resource in resources
        for template in pod_templates(resource)
    ]


def for_checkov(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """Objects, and Pods for those templates that checkov does not find by itself."""
    resources = list(resources)
    known = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Pod"}
    return objects(resources) + pods(resource for resource in resources if resource.kind not in known)


def namespaces(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """Manifests of namespaces, with the label that the API server puts on each."""
    found = [manifest for manifest in objects(resources) if manifest["kind"] == "Namespace"]
    for manifest in found:
        metadata = manifest["metadata"]
        metadata["labels"] = {**metadata.get("labels", {}), "kubernetes.io/metadata.name": metadata["name"]}
    return found


def policies(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """Manifests of network policies."""
    return [manifest for manifest in objects(resources) if manifest["kind"] == "NetworkPolicy"]


def _object(resource: Resource) -> dict[str, Any]:
    module = resource.type.split(":")[1]
    manifest = {
        "apiVersion": module.removeprefix("core/"),
        "kind": resource.kind,
        **_plain(resource.properties),
    }
    if resource.kind == "Secret":
        for part in ("data", "stringData"):
            if part in manifest:
                manifest[part] = dict.fromkeys(mapping(manifest[part]), HIDDEN)
    return manifest


def _plain(value: Any) -> Any:
    """JSON as people write it: whole numbers without a point, nothing that is null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:200]
