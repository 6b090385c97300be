"""The ConfigMap in which a stack says where its things are: read first, and holding no secret. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelport.errors import ModelportError
from modelport.remote.uses import Person, Service

NAMESPACE, NAME = "modelport-registry", "modelport-directory"
"""Where it is in every stack's cluster."""
STACK = "modelport.dev/stack"
"""Its label with the stack's name."""
CALLER = "caller."
"""Its keys begin with this that say where a caller's key is."""

_URLS = {Service.S3: "s3_endpoint", Service.MLFLOW: "tracking_uri", Service.GATEWAY: "gateway_url"}
_IN_CLUSTER = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(\.cluster\.local)?")


@dataclass(frozen=True)
class SecretPlace:
    """A Secret."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class ServicePlace:
    """A port of a Service of the cluster."""

    namespace: str
    name: str
    port: int


@dataclass(frozen=True)
class Directory:
    """What a stack says of itself."""

    stack: str
    urls: Mapping[Service, str]
    """As pods reach them."""
    people: Mapping[Person, SecretPlace]
    """Where the credentials of each role are."""
    callers: Mapping[str, SecretPlace]
    """Where the gateway's key of each caller is."""

    @property
    def training(self) -> str | None:
        """Namespace of trainings: where what trains finds its credentials."""
        trainer = self.people.get(Person.TRAINER)
        return None if trainer is None else trainer.namespace


def parse(data: Mapping[str, str], labels: Mapping[str, str]) -> Directory:
    """The directory that a ConfigMap holds.

    Raises:
        ModelportError: it is none of ours.
    """
    file = f"ConfigMap {NAMESPACE}/{NAME}"
    missing = [key for key in _URLS.values() if not data.get(key)]
    if missing or not labels.get(STACK):
        what = f"key {missing[0]}" if missing else f"label {STACK}"
        raise ModelportError(f"has no {what}", file=file, remedy="it is `pulumi up` that writes it: run it again")
    return Directory(
        stack=labels[STACK],
        urls={service: data[key] for service, key in _URLS.items()},
        people={person: _place(data[person], file) for person in Person if person in data},
        callers={
            key.removeprefix(CALLER): _place(value, file) for key, value in data.items() if key.startswith(CALLER)
        },
    )


def service_of(url: str) -> ServicePlace | None:
    """The Service that a URL means; None where it leads out of the cluster, and can be used as it is."""
    parts = urlsplit(url)
    match = _IN_CLUSTER.fullmatch(parts.hostname or "")
    if match is None:
        return None
    return ServicePlace(match[2], match[1], parts.port or (443 if parts.scheme == "https" else 80))


def _place(text: str, file: str) -> SecretPlace:
    namespace, _, name = text.partition("/")
    if not namespace or not name:
        raise ModelportError(f"has {text!r}, which is no NAMESPACE/NAME", file=file)
    return SecretPlace(namespace, name)
