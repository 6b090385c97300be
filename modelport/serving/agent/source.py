"""Where the desired versions come from: the promotion logs, or a file of pinned digests. An agent is given one."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from modelport.errors import BadInput, ModelportError, Unavailable
from modelport.objects import ObjectStore
from modelport.promotion import desired, read_log

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LOG_KEY = re.compile(r"promotions/([a-z][a-z0-9_]*)/log\.json")


@dataclass(frozen=True)
class Reading:
    """What a source said at one look."""

    versions: Mapping[str, str | None]
    """Digest by model; None where the source has the model and no version of it. What is not here is as before."""
    problem: str | None = None
    """Why some models are not here."""


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
        versions: dict[str, str | None] = {}
        problem: str | None = None
        for model in self._models or self._listed():
            try:
                versions[model] = desired(read_log(self._store, model))
            except Unavailable:
                raise
            except ModelportError as error:
                problem = str(error)
        return Reading(versions, problem)

    def _listed(self) -> Sequence[str]:
        matches = (_LOG_KEY.fullmatch(info.key) for info in self._store.list("promotions/"))
        return sorted(match[1] for match in matches if match)


class FileSource:
    """A JSON file ``{model: digest}``, such as an object that a cluster mounts. It is read anew at every look."""

    def __init__(self, path: Path, models: Sequence[str] = ()) -> None:
        """Serve what `path` pins, of `models` only when there are any."""
        self._path = path
        self._models = frozenset(models)

    def read(self) -> Reading:
        """See `Source.read`."""
        try:
            data: Any = json.loads(self._path.read_text())
        except FileNotFoundError:
            raise Unavailable("the file of desired versions is not there", file=self._path) from None
        except OSError as error:
            raise Unavailable(f"the file of desired versions cannot be read: {error}", file=self._path) from None
        except ValueError as error:
            raise BadInput(f"is not JSON: {error}", file=self._path, remedy='write {"model": "digest"}') from None
        if not isinstance(data, dict):
            raise BadInput("is not a JSON object", file=self._path, remedy='write {"model": "digest"}')
        pins: dict[str, str | None] = {}
        for model, digest in cast(dict[str, Any], data).items():
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise BadInput(
                    f"{digest!r} is not a digest",
                    file=self._path,
                    key=model,
                    remedy="write all 64 hexadecimal digits; `modelport versions` lists them",
                )
            if not self._models or model in self._models:
                pins[model] = digest
        return Reading(pins)
