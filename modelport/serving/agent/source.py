"""Where the desired versions come from: the promotion logs, or a file that says for each model which.

An agent is given one of them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from modelport.contract import Precision
from modelport.errors import BadInput, ModelportError, Unavailable
from modelport.objects import ObjectStore
from modelport.promotion import desired, logged_models, read_log
from modelport.serving.agent.version import Version

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODEL = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Reading:
    """What a source said at one look."""

    versions: Mapping[str, Version | None]
    """By model; None where the source has the model and no version of it. What is not here is as before."""
    problem: str | None = None
    """Why some models are not here."""
    models: frozenset[str] | None = None
    """Every model that is to be served, where the source decides that; None where it does not."""


class Source(Protocol):
    """Tells which version of which model should be served."""

    def read(self) -> Reading:
        """Look now.

        Raises:
            ModelportError: it does not answer, or what it says makes no sense.
        """
        ...


class LogSource:
    """The latest entry of each model's promotion log."""

    def __init__(self, store: ObjectStore, models: Sequence[str]) -> None:
        """Watch `models`, or every model that has a promotion log when there are none."""
        self._store = store
        self._models = tuple(models)

    def read(self) -> Reading:
        """See `Source.read`. A damaged log holds up its own model only."""
        versions: dict[str, Version | None] = {}
        problem: str | None = None
        for model in self._models or logged_models(self._store):
            try:
                versions[model] = _logged(self._store, model)
            except Unavailable:
                raise
            except ModelportError as error:
                problem = str(error)
        return Reading(versions, problem)


class FileSource:
    """A JSON file of what to serve, such as an object that a cluster mounts; read anew at every look.

    By model: a digest, which pins it to that release; null, which means that its promotion log decides; or
    ``{"release": digest or null, "precision": "int8"}``, which says the arithmetic as well. Without it the release's
    own ``model.yaml`` decides on that.
    """

    def __init__(self, path: Path, store: ObjectStore, models: Sequence[str] = ()) -> None:
        """Serve what `path` names and nothing else; with `models`, what it says of these."""
        self._path = path
        self._store = store
        self._models = frozenset(models)

    def read(self) -> Reading:
        """See `Source.read`. A log that cannot be read holds up its own model only: a pin needs no store."""
        versions: dict[str, Version | None] = {}
        problem: str | None = None
        named = parse_versions(self._contents(), self._path)
        for model in sorted(named if not self._models else self._models & named.keys()):
            entry = named[model]
            if entry.release is not None:
                versions[model] = Version(entry.release, entry.precision)
                continue
            try:
                versions[model] = _logged(self._store, model, entry.precision)
            except ModelportError as error:
                problem = str(error)
        return Reading(versions, problem, None if self._models else frozenset(named))

    def _contents(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            raise Unavailable("the file of desired versions is not there", file=self._path) from None
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"the file of desired versions cannot be read: {error}", file=self._path) from None


@dataclass(frozen=True)
class Entry:
    """What a file says of one model."""

    release: str | None
    """Digest; None where the promotion log decides."""
    precision: Precision | None = None
    """None where the release's ``model.yaml`` decides."""


def parse_versions(text: str, file: Path) -> dict[str, Entry]:
    """What a file asks for, by model.

    Raises:
        BadInput: it makes no sense; `file` is named.
    """
    remedy = 'write {"model": "digest"}, or {"model": null} to follow its promotion log'
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise BadInput(f"is not JSON: {error}", file=file, remedy=remedy) from None
    if not isinstance(data, dict):
        raise BadInput("is not a JSON object", file=file, remedy=remedy)
    entries: dict[str, Entry] = {}
    for model, value in cast(dict[str, Any], data).items():
        if not _MODEL.fullmatch(model):
            raise BadInput("is not the name of a model", file=file, key=model, remedy=remedy)
        entries[model] = _entry(value, model, file)
    return entries


def _entry(value: Any, model: str, file: Path) -> Entry:
    parts = cast(dict[str, Any], value) if isinstance(value, dict) else {"release": value}
    if unknown := sorted(parts.keys() - {"release", "precision"}):
        remedy = 'write {"release": digest or null, "precision": "int8"}'
        raise BadInput("is not a known key", file=file, key=f"{model}.{unknown[0]}", remedy=remedy)
    digest, precision = parts.get("release"), parts.get("precision")
    if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise BadInput(
            f"{digest!r} is not a digest",
            file=file,
            key=model,
            remedy="write all 64 hexadecimal digits (`modelport versions` lists them), or null",
        )
    if precision is not None and precision not in list(Precision):
        raise BadInput(
            f"{precision!r} is not a precision",
            file=file,
            key=f"{model}.precision",
            remedy=f"write {', '.join(Precision)}, or null to take what the release says",
        )
    return Entry(digest, None if precision is None else Precision(precision))


def _logged(store: ObjectStore, model: str, precision: Precision | None = None) -> Version | None:
    digest = desired(read_log(store, model))
    return None if digest is None else Version(digest, precision)
