"""Pods: which images, what they may use, and how little they may do."""

import re
from collections.abc import Callable, Iterator

from policy.resources import UNKNOWN, PodTemplate, Properties, Resource, mapping, pod_templates, sequence

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
"""Kinds of volumes that the restricted Pod Security Standard allows."""


def image_tags(resource: Resource) -> Iterator[str]:
    """Images whose name may mean something else tomorrow."""

    def check(container: Properties) -> Iterator[str]:
        image = _image(container)
        if image == UNKNOWN or _DIGEST.search(image):
            return
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        if not tag:
            yield f"{image or 'no image'}: has no tag"
        elif tag == "latest":
            yield f"{image}: latest is whatever was pushed last"

    yield from _each_container(resource, check)


def image_digests(resource: Resource) -> Iterator[str]:
    """Images that are not pinned by their digest."""

    def check(container: Properties) -> Iterator[str]:
        image = _image(container)
        if image != UNKNOWN and not _DIGEST.search(image):
            yield f"{image}: is unpinned; run `make pin-images` where a registry is in reach"

    yield from _each_container(resource, check)


def requests_and_limits(resource: Resource) -> Iterator[str]:
    """Containers that may take what others need."""

    def check(container: Properties) -> Iterator[str]:
        resources = mapping(container.get("resources"))
        for part in ("requests", "limits"):
            missing = [name for name in ("cpu", "memory") if name not in mapping(resources.get(part))]
            if missing:
                yield f"resources.{part}: no {' and no '.join(missing)}"

    yield from _each_container(resource, check)


def restricted(resource: Resource) -> Iterator[str]:
    """What the restricted Pod Security Standard refuses, and root file systems that can be written to."""
    for template in pod_templates(resource):
        yield from (f"{template.place}: {message}" for message in _pod(template))
    yield from _each_container(resource, _container)


def _pod(template: PodTemplate) -> Iterator[str]:
    spec = template.spec
    security = mapping(spec.get("securityContext"))
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name}: shares the node's"
    for volume in map(mapping, sequence(spec.get("volumes"))):
        for kind in sorted(set(volume) - {"name"} - _VOLUMES):
            yield f"volume {volume.get('name')}: {kind} is not allowed"
    for container in template.containers:
        own = mapping(container.get("securityContext"))
        name = container.get("name")
        if own.get("runAsNonRoot", security.get("runAsNonRoot")) is not True:
            yield f"container {name}: runAsNonRoot must be true"
        if own.get("runAsUser", security.get("runAsUser")) == 0:
            yield f"container {name}: runs as root"
        profile = mapping(own.get("seccompProfile") or security.get("seccompProfile"))
        if profile.get("type") not in {"RuntimeDefault", "Localhost"}:
            yield f"container {name}: seccompProfile must be RuntimeDefault or Localhost"


def _container(container: Properties) -> Iterator[str]:
    security = mapping(container.get("securityContext"))
    capabilities = mapping(security.get("capabilities"))
    if security.get("privileged"):
        yield "privileged: must not be"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation: must be false"
    if "ALL" not in sequence(capabilities.get("drop")):
        yield "capabilities.drop: must hold ALL"
    if set(sequence(capabilities.get("add"))) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add: only NET_BIND_SERVICE is allowed"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem: must be true; mount an emptyDir where it has to write"
    for port in map(mapping, sequence(container.get("ports"))):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']:g}: takes the node's"


def _image(container: Properties) -> str:
    return str(container.get("image") or "")


def _each_container(resource: Resource, check: Callable[[Properties], Iterator[str]]) -> Iterator[str]:
    for template in pod_templates(resource):
        for container in template.containers:
            for message in check(container):
                yield f"{template.place}: container {container.get('name')}: {message}"
