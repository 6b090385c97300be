"""Verified releases on the replica's own disk, so that it serves again with the object store away."""

import json
import shutil
from pathlib import Path
from typing import Any

from modelport.contract import Precision
from modelport.objects import ObjectStore
from modelport.release import RELEASES, Release
from modelport.serving.agent.version import Version

_STATE_FILE = "serving.json"


class ReleaseCache:
    """Releases of one model in ``<root>/<model>/<digest>/``, and which of them was good last."""

    def __init__(self, root: Path, model: str, store: ObjectStore) -> None:
        self._folder = root / model
        self._store = store

    def obtain(self, digest: str) -> Release:
        """A release, every digest of which is verified now: from disk, else from the object store.

        Raises:
            BadInput: it is corrupted, here and at the store.
            NotFound, Unavailable, Refused: it is not here and the store does not give it.
        """
        return Release.fetch(self._store, RELEASES, digest, self._folder / digest)

    def serving(self) -> Version | None:
        """What was switched to last, None when there is nothing (or its note is damaged)."""
        try:
            note: Any = json.loads((self._folder / _STATE_FILE).read_text())
            precision = note.get("precision")
            return Version(str(note["serving"]), None if precision is None else Precision(precision))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def note_serving(self, version: Version) -> None:
        """Remember atomically what to come back to."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{_STATE_FILE}"
        temporary.write_text(json.dumps({"serving": version.digest, "precision": version.precision}))
        temporary.replace(self._folder / _STATE_FILE)

    def remove(self) -> None:
        """Delete everything of this model, and forget which release was good."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)

    def keep(self, digests: frozenset[str]) -> None:
        """Delete every other release, and what a killed download left."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.is_dir() and path.name not in digests:
                shutil.rmtree(path)
