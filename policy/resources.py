"""Resources as rules see them, and the pods that hide in them."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import yaml

Properties: TypeAlias = Mapping[str, Any]

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What the engine puts where a string is not known before the update; rules do not judge it."""

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105


@dataclass(frozen=True)
class Resource:
    """One resource of a stack, with plain values."""

    type: str
    """Pulumi's type token, such as ``kubernetes:apps/v1:Deployment``."""
    name: str
    urn: str
    properties: Properties
    """Inputs; secrets are plain here, so that rules can search for them elsewhere."""
    secret_paths: frozenset[str] | None = None
    """Places, such as ``stringData.password``, whose values are secrets in the state; None when nobody knows."""

    @property
    def kind(self) -> str:
        """Last part of the type."""
        return self.type.rsplit(":", 1)[-1]

    @property
    def is_kubernetes_object(self) -> bool:
        """Whether it is an object in a cluster, and not a provider, a chart's release or a group of files."""
        module = self.type.split(":")[1] if self.type.count(":") == 2 else ""
        return self.type.startswith("kubernetes:") and not module.startswith(("helm.sh", "yaml", "kustomize"))

    @property
    def metadata(self) -> Properties:
        """The object's metadata."""
        return mapping(self.properties.get("metadata"))

    @property
    def spec(self) -> Properties:
        """The object's specification."""
        return mapping(self.properties.get("spec"))

    @property
    def namespace(self) -> str:
        """The object's namespace; empty when it has none."""
        return str(self.metadata.get("namespace") or "")

    @property
    def object_name(self) -> str:
        """Its name in the cluster."""
        return str(self.metadata.get("name") or self.name)


@dataclass(frozen=True)
class PodTemplate:
    """A pod that a resource makes, or has an operator make."""

    place: str
    """Where in the resource it was found."""
    metadata: Properties
    spec: Properties
    namespace: str

    @property
    def containers(self) -> list[Properties]:
        """Every container, those that run beforehand too."""
        names = ("initContainers", "containers", "ephemeralContainers")
        return [mapping(item) for name in names for item in sequence(self.spec.get(name))]


def from_state(record: Properties) -> Resource:
    """A resource of an exported state (``pulumi stack export --show-secrets``) or of a recording.

    Args:
        record: at least ``type``, and ``urn`` or ``name``; ``inputs`` may hold wrapped secrets.
    """
    secrets: set[str] = set()
    properties = _unwrapped(mapping(record.get("inputs")), "", secrets)
    urn = str(record.get("urn") or record.get("name") or "")
    return Resource(str(record["type"]), urn.rsplit("::", 1)[-1], urn, mapping(properties), frozenset(secrets))


def pod_templates(resource: Resource) -> list[PodTemplate]:
    """Every pod template in a resource, those in manifests that a ConfigMap carries too."""
    if resource.is_kubernetes_object:
        return list(_templates(resource.kind, resource.properties, "", resource.namespace))
    return []


def carried_manifests(config_map: Properties) -> Iterator[tuple[str, Properties]]:
    """Kubernetes manifests in a ConfigMap's data, JSON or YAML, with the key that they lie under."""
    for key, text in mapping(config_map.get("data")).items():
        if not isinstance(text, str) or "apiVersion" not in text or "kind" not in text:
            continue
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.YAMLError:
            continue  # some other text that happens to have the words in it
        for document in documents:
            manifest = mapping(document)
            if isinstance(manifest.get("kind"), str) and isinstance(manifest.get("apiVersion"), str):
                yield key, manifest


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a value, with its place."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in cast(Mapping[str, Any], value).items():
            yield from texts(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(cast(list[Any], value)):
            yield from texts(item, f"{path}[{number}]")


def mapping(value: Any) -> Properties:
    """The value, if it is a mapping; otherwise an empty one."""
    return cast(Properties, value) if isinstance(value, Mapping) else {}


def sequence(value: Any) -> list[Any]:
    """The value, if it is a list; otherwise an empty one."""
    return cast(list[Any], value) if isinstance(value, list) else []


def entropy(text: str) -> float:
    """Shannon entropy in bits for each letter."""
    counts = [text.count(letter) for letter in set(text)]
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


_TEMPLATE_PLACES = {
    "Deployment": ("spec.template",),
    "StatefulSet": ("spec.template",),
    "DaemonSet": ("spec.template",),
    "ReplicaSet": ("spec.template",),
    "ReplicationController": ("spec.template",),
    "Job": ("spec.template",),
    "CronJob": ("spec.jobTemplate.spec.template",),
    "PodTemplate": ("template",),
    "RayCluster": ("spec.headGroupSpec.template", "spec.workerGroupSpecs[].template"),
    "RayJob": (
        "spec.submitterPodTemplate",
        "spec.rayClusterSpec.headGroupSpec.template",
        "spec.rayClusterSpec.workerGroupSpecs[].template",
    ),
    "RayService": (
        "spec.rayClusterConfig.headGroupSpec.template",
        "spec.rayClusterConfig.workerGroupSpecs[].template",
    ),
}


def _templates(kind: str, manifest: Properties, prefix: str, namespace: str) -> Iterator[PodTemplate]:
    if kind == "Pod":
        yield PodTemplate(prefix or "pod", mapping(manifest.get("metadata")), mapping(manifest.get("spec")), namespace)
    for place in _TEMPLATE_PLACES.get(kind, ()):
        for found_at, template in _at(manifest, place.split("."), ""):
            yield PodTemplate(
                prefix + found_at, mapping(template.get("metadata")), mapping(template.get("spec")), namespace
            )
    if kind == "ConfigMap":
        for key, carried in carried_manifests(manifest):
            inner = str(mapping(carried.get("metadata")).get("namespace") or namespace)
            yield from _templates(str(carried["kind"]), carried, f"data[{key}].", inner)


def _at(value: Properties, path: list[str], walked: str) -> Iterator[tuple[str, Properties]]:
    if not path:
        if value:
            yield walked, value
        return
    key, rest = path[0], path[1:]
    if key.endswith("[]"):
        for number, item in enumerate(sequence(value.get(key[:-2]))):
            yield from _at(mapping(item), rest, f"{walked}.{key[:-2]}[{number}]".lstrip("."))
    else:
        yield from _at(mapping(value.get(key)), rest, f"{walked}.{key}".lstrip("."))


def _unwrapped(value: Any, path: str, secrets: set[str]) -> Any:
    if isinstance(value, Mapping):
        given = cast(Mapping[str, Any], value)
        if given.get(_SIGNATURE) == _SECRET:
            secrets.add(path)
            inner = given.get("value", UNKNOWN)
            if "plaintext" in given:
                inner = json.loads(given["plaintext"])
            return _unwrapped(inner, path, secrets)
        return {key: _unwrapped(item, f"{path}.{key}".lstrip("."), secrets) for key, item in given.items()}
    if isinstance(value, list):
        items = cast(list[Any], value)
        return [_unwrapped(item, f"{path}[{number}]", secrets) for number, item in enumerate(items)]
    return value
