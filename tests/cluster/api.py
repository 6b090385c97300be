"""The API server, for the small programs of a cluster here: requests, and following a kind of object."""

import base64
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Never

Manifest = dict[str, Any]

_RETRY_S = 0.5


class Api:
    """An API server, as a kubeconfig written as JSON names it."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._url, self._token = cluster["server"], user["token"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=authority)),
        )

    def get(self, path: str) -> Manifest:
        """One object or list."""
        with self._open("GET", path) as answer:
            found: Manifest = json.load(answer)
        return found

    def send_unless(self, method: str, path: str, body: Manifest | None = None, *, status: int) -> None:
        """Send a request; that it is refused with a status such as 404 is as good."""
        try:
            self._open(method, path, body).close()
        except urllib.error.HTTPError as error:
            if error.code != status:
                raise

    def follow(
        self, path: str, listed: Callable[[Sequence[Manifest]], None], changed: Callable[[str, Manifest], None]
    ) -> Never:
        """Follow a collection for ever; a connection that breaks is opened anew.

        Args:
            path: of the collection, without a query.
            listed: gets all objects, at the start and whenever the connection was lost.
            changed: gets each change since then: ``ADDED``, ``MODIFIED`` or ``DELETED``, and the object.
        """
        while True:
            try:
                self._follow(path, listed, changed)
            except (OSError, ValueError) as error:  # URLError and broken streams are OSErrors
                print(f"{path} cannot be followed: {error}", flush=True)
                time.sleep(_RETRY_S)

    def _follow(
        self, path: str, listed: Callable[[Sequence[Manifest]], None], changed: Callable[[str, Manifest], None]
    ) -> None:
        listing = self.get(path)
        listed(listing["items"])
        version = listing["metadata"]["resourceVersion"]
        with self._open("GET", f"{path}?watch=1&resourceVersion={version}") as stream:
            for line in stream:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ValueError(event["object"])
                changed(event["type"], event["object"])

    def _open(self, method: str, path: str, body: Manifest | None = None) -> Any:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        return self._opener.open(request)
