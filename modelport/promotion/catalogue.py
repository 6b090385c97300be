"""Which releases of a model there are, and what people call them."""

import re
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from modelport.connection import Connection, Role
from modelport.errors import BadInput
from modelport.objects import ObjectStore
from modelport.project import state_folder
from modelport.promotion.log import SHORT
from modelport.promotion.numbering import NUMBER, digest_of
from modelport.release import MANIFEST_FILE, RELEASES, Release, staging_prefix


@dataclass(frozen=True)
class Staged:
    """A release that is complete in staging."""

    digest: str
    time: datetime
    """When its manifest was written."""


def staged_releases(store: ObjectStore, model: str) -> list[Staged]:
    """Complete releases in a model's staging, the newest first."""
    prefix = f"{staging_prefix(model)}/"
    rows = [
        Staged(row.key.removeprefix(prefix).partition("/")[0], row.modified)
        for row in store.list(prefix)
        if re.fullmatch(rf"[0-9a-f]{{64}}/{MANIFEST_FILE}", row.key.removeprefix(prefix))
    ]
    return sorted(rows, key=lambda row: row.time, reverse=True)


def is_released(store: ObjectStore, digest: str) -> bool:
    """Whether ``releases/<digest>/`` is complete."""
    return store.exists(f"{RELEASES}/{digest}/{MANIFEST_FILE}")


def resolve(store: ObjectStore, model: str, name: str | None, also: Iterable[str], connection: Connection) -> str:
    """The digest that a person means.

    Args:
        name: a digest or its beginning, ``v7`` for MLflow's version 7, or None for the release that was staged last.
        also: digests that may be meant although they are not in staging any more, such as promoted ones.

    Raises:
        BadInput: there is no such release, or more than one; two were staged last, in the same second; a version number
            stands for another release than it did.
    """
    staged = staged_releases(store, model)
    if name is None:
        if not staged:
            raise BadInput(f"no release of {model} is staged", remedy=f"run `modelport train {model}`")
        last = [row.digest[:SHORT] for row in staged if row.time == staged[0].time]
        if len(last) > 1:  # Stores tell the time of an object by the second.
            raise BadInput(
                f"{len(last)} releases of {model} were staged last, at the same time: {', '.join(sorted(last))}",
                remedy="name the one that is meant",
            )
        return staged[0].digest
    if NUMBER.fullmatch(name):
        return digest_of(store, model, name, connection)
    known = dict.fromkeys([row.digest for row in staged] + list(also))
    found = [digest for digest in known if digest.startswith(name)]
    if len(found) != 1:
        raise BadInput(
            f"{'no release' if not found else 'more than one release'} of {model} begins with {name!r}",
            remedy=f"see `modelport versions {model}`",
        )
    return found[0]


def fetch(store: ObjectStore, model: str, digest: str, root: Path | None) -> Release:
    """A verified local copy of a release, from ``releases/`` where it is promoted, else from staging.

    Raises:
        NotFound: it is in neither.
        BadInput: what is there is not what the digest says.
    """
    cache = state_folder(root) / "cache" / "releases" / digest
    prefix = RELEASES if is_released(store, digest) else staging_prefix(model)
    return Release.fetch(store, prefix, digest, cache)


@contextmanager
def scratch(root: Path | None) -> Generator[Path]:
    """A folder for the time of a copy."""
    place = state_folder(root) / "cache"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def staging_uri(store: ObjectStore, model: str, digest: str) -> str:
    """Where training put a release."""
    return f"s3://{store.bucket}/{staging_prefix(model)}/{digest}"


def promoter_store(connection: Connection) -> ObjectStore:
    """The object store as the promoter; raises `Refused` where the connection has no such identity."""
    return ObjectStore.connect(connection, Role.PROMOTER)
