"""What a user says of an object store: buckets, consumers, their rights; checked, with what every engine reads."""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NotRequired, TypedDict

import pulumi

from components import ports
from components.pods import Resources, sized

ROOT = "admin"
"""The administrator, whose credentials no consumer has."""

_ERASURE_CODED = 4
_NAME = re.compile(r"[a-z][a-z0-9-]{1,18}[a-z0-9]")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


class Expiry(TypedDict):
    """Objects that are removed by age."""

    prefix: str
    """Beginning of their names, such as ``staging/``; empty is every object."""
    days: int
    """Days after which they go."""


class StoreBucket(TypedDict):
    """A bucket."""

    name: str
    """Its name, as consumers call it."""
    versioning: NotRequired[bool]
    """Keep what is overwritten or deleted for a while [default: false]."""
    noncurrent_days: NotRequired[int]
    """With versioning: days for which it is kept [default: 30]."""
    unversioned: NotRequired[list[str]]
    """With versioning: prefixes of which nothing is kept, for what is written over and over [default: none]."""
    expire: NotRequired[list[Expiry]]
    """Objects that are removed by age."""


class Grant(TypedDict):
    """Rights of a consumer in one bucket."""

    bucket: str
    """The bucket."""
    read: list[str]
    """Prefixes whose objects it lists and reads; an empty prefix is the whole bucket."""
    write: list[str]
    """Prefixes whose objects it lists, reads, writes and deletes."""


class Consumer(TypedDict):
    """Somebody with an access key of their own."""

    name: str
    """The name, which is the access key too where the engine lets it be."""
    grants: list[Grant]
    """What it may do; nothing else is allowed."""


class ObjectStoreEngine(StrEnum):
    """What answers the S3 API."""

    MINIO = "minio"
    SEAWEEDFS = "seaweedfs"
    GCS = "gcs"


RESOURCES = Resources(0.25, "1Gi")
"""Where `ObjectStoreResources` says nothing."""


class ObjectStoreResources(TypedDict):
    """What one replica asks for."""

    cpu: NotRequired[float]
    """Processor cores [default: 0.25]."""
    memory: NotRequired[str]
    """Kubernetes quantity [default: 1Gi]."""


class Gcs(TypedDict):
    """Where buckets of Google Cloud Storage lie."""

    project: str
    """Project of the buckets, and of a service account for each consumer."""
    location: str
    """Region, such as ``us-central1``, or multi-region."""
    storage_class: NotRequired[str]
    """Storage class [default: STANDARD]."""
    force_destroy: NotRequired[bool]
    """Delete buckets that have objects in them [default: false]."""
    bucket_prefix: NotRequired[str]
    """Beginning of the buckets' real names, which all of Google's customers share [default: the project]."""


class ObjectStoreArgs(TypedDict):
    """Arguments of `ObjectStore`."""

    namespace: pulumi.Input[str]
    """Namespace that the store lives in."""
    engine: ObjectStoreEngine
    """What answers the S3 API."""
    size: str
    """Size of each replica's volume, a Kubernetes quantity such as ``100Gi``; it may grow later. Unused by `gcs`."""
    storage_class: NotRequired[str]
    """Storage class of the volumes [default: the cluster's]."""
    replicas: NotRequired[int]
    """MinIO: 1, or at least 4. Without 1 of 4, or 2 of 6, it goes on writing; without half of them, reading: in three
    zones it takes 6 to do without one. It is decided once [default: 1]."""
    buckets: list[StoreBucket]
    """Buckets."""
    consumers: list[Consumer]
    """Who has an access key, and what it is good for."""
    key_generations: NotRequired[dict[str, int]]
    """Generation of a consumer's key; another number makes another key, and the server forgets the old one."""
    root_generation: NotRequired[int]
    """Generation of the administrator's credentials, which no consumer has [default: 1]."""
    resources: NotRequired[ObjectStoreResources]
    """What one replica asks for."""
    tls_secret: NotRequired[str]
    """MinIO: Secret with ``tls.crt``, ``tls.key`` and ``ca.crt`` for the Service's names; gives https."""
    tool_image: NotRequired[pulumi.Input[str]]
    """SeaweedFS: an image with Python and boto3, for making the buckets."""
    protect: NotRequired[bool]
    """Refuse to delete volumes or buckets, and keep them when that is forced [default: false]."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object."""
    gcs: NotRequired[Gcs]
    """Where the buckets lie, for the engine `gcs`."""


def check(args: ObjectStoreArgs) -> None:
    """Refuse what an engine does not do.

    Raises:
        ValueError: and which argument it is.
    """
    _check_rights(args["buckets"], args["consumers"], args.get("key_generations", {}))
    engine, count = ObjectStoreEngine(args["engine"]), replicas(args)
    if engine is ObjectStoreEngine.MINIO and count != 1 and count < _ERASURE_CODED:
        raise ValueError(f"replicas: MinIO needs 1 or at least {_ERASURE_CODED}, not {count}")
    if engine is not ObjectStoreEngine.MINIO and count != 1:
        raise ValueError(f"replicas: {engine} has one; the engine minio can have more")
    if engine is not ObjectStoreEngine.MINIO and "tls_secret" in args:
        raise ValueError(f"tls_secret: is for the engine minio, not for {engine}")
    if engine is ObjectStoreEngine.SEAWEEDFS and "tool_image" not in args:
        raise ValueError("tool_image: the engine seaweedfs needs an image with Python and boto3")
    if (engine is ObjectStoreEngine.GCS) != ("gcs" in args):
        raise ValueError("gcs: must be given with the engine gcs, and with no other")
    if ROOT in generations(args):
        raise ValueError(f"consumers: {ROOT} is the administrator's name")


def address(name: str, namespace: pulumi.Input[str]) -> pulumi.Output[str]:
    """Host and port of the store's Service."""
    return pulumi.Output.format("{0}.{1}.svc:{2}", name, namespace, ports.OBJECT_STORE)


def scheme(args: ObjectStoreArgs) -> str:
    """``http``, or ``https`` where there is a certificate."""
    return "https" if "tls_secret" in args else "http"


def resources(args: ObjectStoreArgs) -> Resources:
    """What one replica asks for."""
    return sized(args.get("resources", {}), RESOURCES)


def replicas(args: ObjectStoreArgs) -> int:
    """How many there are."""
    return int(args.get("replicas", 1))


def generations(args: ObjectStoreArgs) -> dict[str, int]:
    """Generation of every consumer's key."""
    given = args.get("key_generations", {})
    return {consumer["name"]: int(given.get(consumer["name"], 1)) for consumer in args["consumers"]}


def _check_rights(buckets: Sequence[StoreBucket], consumers: Sequence[Consumer], given: Mapping[str, int]) -> None:
    """Refuse rights in buckets that are not there, and names that an engine would refuse later.

    Raises:
        ValueError: and which argument it is.
    """
    _unique("buckets", [bucket["name"] for bucket in buckets], _BUCKET)
    _unique("consumers", [consumer["name"] for consumer in consumers], _NAME)
    names = {bucket["name"] for bucket in buckets}
    for consumer in consumers:
        for grant in consumer["grants"]:
            if grant["bucket"] not in names:
                raise ValueError(f"consumers: {consumer['name']} has rights in {grant['bucket']}, which is no bucket")
            for prefix in (*grant["read"], *grant["write"]):
                if prefix and (not prefix.endswith("/") or not re.fullmatch(r"[\w./-]+", prefix)):
                    raise ValueError(
                        f"consumers: {consumer['name']}: prefix {prefix!r} must be letters, digits and dashes and end "
                        "with a slash, or it would cover neighbours of like names"
                    )
    unknown = sorted(set(given) - {consumer["name"] for consumer in consumers})
    if unknown:
        raise ValueError(f"key_generations: {', '.join(unknown)} is not among consumers")


def _unique(argument: str, names: Sequence[str], pattern: re.Pattern[str]) -> None:
    for name in names:
        if not pattern.fullmatch(name):
            raise ValueError(f"{argument}: {name!r} must be small letters, digits and dashes, of a usual length")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{argument}: {', '.join(twice)} is there twice")
