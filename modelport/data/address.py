"""Where datasets lie in the bucket."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from modelport.errors import BadInput
from modelport.objects import NotFound, ObjectStore


class Kind(StrEnum):
    """The two halves of a dataset. Whoever trains has no right on the second."""

    DATASETS = "datasets"
    HELDOUT = "heldout"


_URI = re.compile(r"s3://(?P<bucket>[^/]+)/datasets/(?P<name>[^/]+)(?:/manifests/(?P<digest>[0-9a-f]{64})\.json)?/?")


@dataclass(frozen=True)
class Address:
    """A dataset on the object store."""

    bucket: str
    name: str
    digest: str | None
    """None is the one that was pushed last."""

    @classmethod
    def parse(cls, uri: str) -> "Address | None":
        """Address of an ``s3://`` URI; None for a local path.

        Raises:
            BadInput: another kind of URI.
        """
        if "://" not in uri:
            return None
        found = _URI.fullmatch(uri)
        if not found and uri.lower().endswith(".zip"):
            raise BadInput(
                "is a zip that no training can read: its held-out part must be out of a training's reach",
                file=uri,
                remedy=f"divide and push it with the promoter's connection: `modelport data push NAME {uri}`; "
                "then use s3://BUCKET/datasets/NAME",
            )
        if not found:
            raise BadInput(
                "is not the address of a dataset",
                key=uri,
                remedy="write s3://BUCKET/datasets/NAME; `modelport data list NAME` prints those of its versions",
            )
        return cls(found["bucket"], found["name"], found["digest"])


UPLOADS = "uploads/"
"""Prefix under which people lay down zips for `modelport data push`; only the promoter's identity reads it."""


def uploaded_key(store: ObjectStore, uri: str) -> str:
    """Key of an uploaded zip in this bucket.

    Raises:
        BadInput: the URI is no zip there.
    """
    prefix = f"s3://{store.bucket}/{UPLOADS}"
    if not uri.startswith(prefix) or not uri.lower().endswith(".zip"):
        raise BadInput("is no uploaded zip", file=uri, remedy=f"write {prefix}FILE.zip, or a local folder or zip")
    return uri.removeprefix(f"s3://{store.bucket}/")


class Latest(BaseModel):
    """Which version of a dataset was pushed last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    pushed: datetime


def object_prefix(kind: Kind, name: str) -> str:
    """Prefix under which a dataset's files lie by hash."""
    return f"{kind}/{name}/objects"


def manifest_prefix(kind: Kind, name: str) -> str:
    """Prefix of a dataset's manifests."""
    return f"{kind}/{name}/manifests"


def manifest_key(kind: Kind, name: str, digest: str) -> str:
    """Key of one manifest."""
    return f"{manifest_prefix(kind, name)}/{digest}.json"


def latest_key(name: str) -> str:
    """Key of the pointer to the version pushed last."""
    return f"{Kind.DATASETS}/{name}/latest.json"


def find_latest(store: ObjectStore, name: str) -> Latest | None:
    """Which version of a dataset was pushed last; None if none was.

    Raises:
        BadInput: the pointer to it is damaged.
    """
    place = f"s3://{store.bucket}/{latest_key(name)}"
    try:
        return Latest.model_validate_json(store.get(latest_key(name)))
    except NotFound:
        return None
    except ValidationError as error:
        raise BadInput(f"is damaged: {error}", file=place, remedy="push the dataset again") from None


def read_latest(store: ObjectStore, name: str) -> Latest:
    """Which version of a dataset was pushed last.

    Raises:
        BadInput: none was.
    """
    latest = find_latest(store, name)
    if latest is None:
        place = f"s3://{store.bucket}/{latest_key(name)}"
        remedy = f"`modelport data push {name} PATH` puts one there"
        raise BadInput(f"no dataset {name!r} was pushed", file=place, remedy=remedy)
    return latest


def dataset_uri(bucket: str, name: str, digest: str | None = None) -> str:
    """Address of a version of a dataset; of the one that was pushed last without `digest`."""
    return f"s3://{bucket}/" + (manifest_key(Kind.DATASETS, name, digest) if digest else f"{Kind.DATASETS}/{name}")


def pinned(store: ObjectStore, uri: str) -> Address | None:
    """The one version that an ``s3://`` address means now, with its digest; None if none was pushed.

    Raises:
        BadInput: it is no address of a dataset in this bucket.
    """
    address = Address.parse(uri)
    if address is None or address.bucket != store.bucket:
        where = dataset_uri(store.bucket, "NAME")
        raise BadInput("is not on this platform's S3", file=uri, remedy=f"write {where}")
    if address.digest is not None:
        return address
    latest = find_latest(store, address.name)
    return None if latest is None else replace(address, digest=latest.digest)
