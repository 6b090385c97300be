"""Talking to an API server as its administrator: what every kind of cluster here has."""

import json
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tools import program

T = TypeVar("T")

WAIT_S = 60.0
"""How long something is waited for where nobody says otherwise."""

_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class ClusterError(Exception):
    """A cluster does not do what was waited for; the message holds the end of a log."""


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Client:
    """The API of a cluster."""

    url: str
    """Of the API server, ``https://127.0.0.1:PORT``."""
    kubeconfig: Path
    """For kubectl and every other client."""
    state: Path
    """Folder of ours for what has to be written."""

    def __init__(self) -> None:
        self._client: httpx.Client | None = None
        self._defined: dict[str, dict[str, Any]] = {}
        """Metadata of what was defined, by its text: replacing a megabyte by itself takes the API server a second."""

    def _connect(self, url: str, token: str = "", authority: str | None = None) -> None:
        self.url = url
        self._client = httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cadata=authority),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=60,
            trust_env=False,
        )

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        self._defined.clear()

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request to the API server; the answer's JSON object.

        Args:
            method: of HTTP.
            path: such as ``/api/v1/nodes``, with its query.
            body: an object to send.
            content_type: of the body, which for a PATCH says what kind of patch it is.

        Raises:
            ApiError: it refuses; with its status and message.
        """
        return self._send(method, path, None if body is None else json.dumps(body), content_type)

    def get(self, path: str) -> dict[str, Any]:
        """One object or list; see `request`."""
        return self.request("GET", path)

    def find(self, path: str) -> dict[str, Any] | None:
        """One object or list; None where there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output of kubectl as the administrator.

        Raises:
            ClusterError: it fails; with what it said.
        """
        done = subprocess.run(
            [
                program("kubectl"),
                f"--kubeconfig={self.kubeconfig}",
                f"--cache-dir={self.state / 'kubectl'}",
                *arguments,
            ],
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply objects on the server's side, fields that it does not know refused.

        Raises:
            ClusterError: one is refused; with the reason.
        """
        listing = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(listing))

    def apply_crds(self, folder: Path) -> None:
        """Apply a folder of custom resource definitions, such as ``tools.crds("keda")``, and wait until they serve.

        Raises:
            ClusterError: one is not served within a minute.
            ApiError: one is refused.
        """
        texts = [
            text
            for file in sorted(folder.glob("*.yaml"))
            for text in re.split(r"^---.*$", file.read_text(), flags=re.MULTILINE)
            if "\nkind: CustomResourceDefinition\n" in text
        ]
        if not texts:
            raise ClusterError(f"no definitions in {folder}")
        # As they are: what a word such as `=` or `off` means in YAML is for the API server to say.
        names = {self._define(text) for text in texts}
        self.wait_for("kube-apiserver", "serves new kinds", lambda: self._serves(names))

    def wait_for(self, process: str, what: str, ask: Callable[[], T | None], seconds: float = WAIT_S) -> T:
        """The first answer of `ask` that is neither None nor false.

        Args:
            process: the one to blame: waiting ends when it ends, and its log goes into the message.
            what: is waited for, to go after the name of the process.
            ask: is called every 50 ms.
            seconds: how long it may take.

        Raises:
            ClusterError: it took longer, or the process has ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            answer = ask()
            if answer:
                return answer
            status = self._ended(process)
            if status is not None:
                raise ClusterError(f"{process} ended with status {status}\n{self.log(process)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"not within {seconds:.0f} s: {process} {what}\n{self.log(process)}")
            time.sleep(0.05)

    def log(self, process: str) -> str:
        """The end of a process's log, where there is one to be seen."""
        return f"(the log of {process} is not here)"

    def _ended(self, process: str) -> str | None:
        """Status that a process of the cluster ended with, None while it runs."""
        del process
        return None

    def _ready(self) -> bool:
        """Whether the API server says that it is."""
        assert self._client is not None
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def _send(
        self, method: str, path: str, content: str | None, content_type: str, accept: str = "application/json"
    ) -> dict[str, Any]:
        assert self._client is not None, "the cluster is not up"
        headers = {"Accept": accept} | ({} if content is None else {"Content-Type": content_type})
        answer = self._client.request(method, path, content=content, headers=headers)
        try:
            received: dict[str, Any] = answer.json()
        except ValueError:
            received = {"message": answer.text}
        if answer.is_error:
            raise ApiError(answer.status_code, str(received.get("message", received)))
        return received

    def _define(self, text: str) -> str:
        """Name of the definition in a text, created or replaced unless it is there as it was given before."""
        # A definition can be a megabyte, and is not wanted back.
        only_names = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        known = self._defined.get(text)
        if known is not None:
            with suppress(ApiError):
                found = self._send("GET", f"{_DEFINITIONS}/{known['name']}", None, "", only_names)["metadata"]
                if (found["uid"], found["generation"]) == (known["uid"], known["generation"]):
                    return str(known["name"])
        try:
            made = self._send("POST", _DEFINITIONS, text, "application/yaml", only_names)
        except ApiError as error:
            there = re.search(r'"(\S+)" already exists', error.message)
            if error.status != HTTPStatus.CONFLICT or there is None:
                raise
            path = f"{_DEFINITIONS}/{there[1]}?fieldManager=tests&force=true"
            made = self._send("PATCH", path, text, "application/apply-patch+yaml", only_names)
        self._defined[text] = made["metadata"]
        return str(made["metadata"]["name"])

    def _serves(self, names: Iterable[str]) -> bool:
        """Whether definitions, named ``plural.group``, are among what the API server says that it serves."""
        served: set[str] = set()
        try:
            for group in {name.partition(".")[2] for name in names}:
                for version in self.get(f"/apis/{group}")["versions"]:
                    resources = self.get(f"/apis/{version['groupVersion']}")["resources"]
                    served |= {f"{resource['name']}.{group}" for resource in resources}
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return served.issuperset(names)


def condition_of(item: Mapping[str, Any], kind: str) -> str | None:
    """Status of an object's condition: ``True``, ``False``, ``Unknown``, or None where it has no such condition."""
    conditions: list[dict[str, str]] = item.get("status", {}).get("conditions") or []
    return next((condition["status"] for condition in conditions if condition["type"] == kind), None)
