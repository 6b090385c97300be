"""Who is calling: API keys against a file of hashes that may change while the gateway runs."""

import hmac
import json
import logging
import re
import time
from pathlib import Path
from typing import Any, cast

from modelport.errors import BadInput
from modelport.serving.keys import hash_key

log = logging.getLogger("modelport.gateway")

_HASH = re.compile(r"[0-9a-f]{64}")
_LOOK_SECONDS = 1.0


class KeyRing:
    """Callers by the hashes of their keys."""

    def __init__(self, path: Path) -> None:
        """Read the keys.

        Raises:
            BadInput: the file is missing or makes no sense.
        """
        self._path = path
        self._stamp = self._stamped()
        self._hashes = read_keys(path)
        self._looked = time.monotonic()

    def caller(self, key: str) -> str | None:
        """Name of who holds this key, None when nobody does."""
        self._reload_when_changed()
        presented = hash_key(key)
        found: str | None = None
        # Every hash is compared, in constant time: how long a refusal takes tells nothing.
        for caller, expected in self._hashes.items():
            if hmac.compare_digest(presented, expected):
                found = caller
        return found

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _reload_when_changed(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._hashes = read_keys(self._path)
            log.info("keys of %d callers read again", len(self._hashes))
        except BadInput as error:
            # A half-edited file must not lock everybody out.
            log.error("the keys that were read before go on: %s", error)


def read_keys(path: Path) -> dict[str, str]:
    """Hashes by caller.

    Raises:
        BadInput: the file is missing or makes no sense.
    """
    try:
        data: Any = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"the keys cannot be read: {error.strerror}", file=path) from None
    except ValueError as error:
        raise BadInput(f"is not JSON: {error}", file=path, remedy='write {"caller": "sha256 of the key"}') from None
    if not isinstance(data, dict):
        raise BadInput("is not a JSON object", file=path, remedy='write {"caller": "sha256 of the key"}')
    entries = cast(dict[str, Any], data)
    for caller, digest in entries.items():
        if not isinstance(digest, str) or not _HASH.fullmatch(digest):
            # The value is not repeated: it may be a key that was written here by mistake.
            raise BadInput("is not a SHA-256 in hex", file=path, key=caller, remedy="store modelport.serving.hash_key")
    return entries
