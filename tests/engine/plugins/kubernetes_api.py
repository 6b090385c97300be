"""A Kubernetes API server as the stand-in provider needs it: server-side apply, read, delete, discovery."""

import base64
import json
import os
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import yaml
from plugin_kit import Refused

FIELD_MANAGER = "pulumi-kubernetes"

Object = dict[str, Any]
"""A Kubernetes object as JSON has it."""


class ApiError(Refused):
    """The API server refused."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(f"{reason or code}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    @property
    def missing_namespace(self) -> bool:
        """Whether the object was refused because its namespace is not there."""
        return self.code == 404 and self.details.get("kind") == "namespaces"

    @property
    def immutable(self) -> bool:
        """Whether the object exists and may not be changed like that."""
        words = ("immutable", "cannot change", "updates to statefulset spec", "may not be changed")
        return self.code == 422 and any(word in self.message for word in words)

    @property
    def fields(self) -> list[str]:
        """Paths of the fields that were refused, without positions in lists."""
        return [str(cause.get("field", "")).split("[")[0] for cause in self.details.get("causes") or []]


class NoKind(Refused):
    """The API server has no such kind, or not yet."""

    def __init__(self, api_version: str, kind: str) -> None:
        super().__init__(f"the cluster has no kind {kind} in {api_version}")


@dataclass(frozen=True)
class Kind:
    """Where objects of a kind are found."""

    base: str
    """``/api/v1`` or ``/apis/GROUP/VERSION``."""
    plural: str
    namespaced: bool


@dataclass(frozen=True)
class Access:
    """How to reach an API server."""

    url: str
    namespace: str
    headers: Mapping[str, str]
    tls: ssl.SSLContext


def access(config: Mapping[str, Any]) -> Access:
    """Access by the provider's configuration: kubeconfig (a path or its content), context, cluster, namespace.

    A user that logs in by a program, as GKE's do, cannot be used here: with ``MODELPORT_TEST_CLUSTER`` set to the path
    of another kubeconfig, the test's cluster stands for the real one.

    Raises:
        Refused: no such file or context, or a way to log in that this stand-in does not know.
    """
    given = str(config.get("kubeconfig") or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    document = _kubeconfig(given)
    context_name = config.get("context") or document.get("current-context")
    context = _named(document, "context", context_name)
    user = _named(document, "user", context.get("user"))
    if "exec" in user:
        _check_exec(user["exec"])
        stand_in = os.environ.get("MODELPORT_TEST_CLUSTER")
        if not stand_in:
            raise Refused(
                "kubeconfig: a user with `exec` cannot log in here; set MODELPORT_TEST_CLUSTER to a kubeconfig"
            )
        return access({"kubeconfig": stand_in, "namespace": config.get("namespace") or context.get("namespace")})
    cluster = _named(document, "cluster", config.get("cluster") or context.get("cluster"))
    tls = ssl.create_default_context(cadata=_inline(cluster, "certificate-authority"))
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if "client-certificate" in user:
        tls.load_cert_chain(user["client-certificate"], user["client-key"])
    elif "token" not in user:
        raise Refused(f"kubeconfig: user {context.get('user')!r} has neither a token nor certificate files")
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    namespace = config.get("namespace") or context.get("namespace") or "default"
    return Access(url=cluster["server"], namespace=namespace, headers=headers, tls=tls)


class Cluster:
    """An API server. Safe for use by many threads."""

    def __init__(self, reached_by: Access) -> None:
        self.namespace = reached_by.namespace
        self._client = httpx.Client(
            base_url=reached_by.url,
            headers=dict(reached_by.headers),
            verify=reached_by.tls,
            trust_env=False,
            timeout=60,
            limits=httpx.Limits(max_connections=64),
        )
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._discovering = threading.Lock()

    def kind(self, api_version: str, kind: str) -> Kind:
        """Where objects of a kind are found.

        Raises:
            NoKind: nowhere (yet).
        """
        with self._discovering:
            if (api_version, kind) not in self._kinds:
                self._discover(api_version)
            if (api_version, kind) not in self._kinds:
                raise NoKind(api_version, kind)
            return self._kinds[api_version, kind]

    def get(self, item: Object) -> Object | None:
        """The object as it is in the cluster, or None."""
        try:
            return self._json("GET", self.path(item))
        except NoKind:
            return None
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def read(self, path: str, **parameters: str) -> Object:
        """Any resource by its path."""
        return self._json("GET", path, params=parameters)

    def apply(self, item: Object, *, dry_run: bool = False) -> tuple[Object, list[str]]:
        """Server-side apply with strict field validation; the object as the server has it then, and its warnings.

        Raises:
            ApiError: admission or validation refused it, or its namespace is not there.
            NoKind: the server does not know the kind.
        """
        parameters = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            parameters["dryRun"] = "All"
        # JSON is YAML; the content type is what asks for server-side apply.
        return self._apply(self.path(item), json.dumps(item).encode(), parameters)

    def apply_definition(self, name: str, document: str) -> None:
        """Apply a CustomResourceDefinition given as YAML text, and wait until its kind is served."""
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{quote(name)}"
        made, _ = self._apply(path, document.encode(), {"fieldManager": "helm", "force": "true"})
        deadline = time.monotonic() + 30
        # Found is established. The definition itself, up to a megabyte, is not asked for again.
        while not self._finds(made):
            if time.monotonic() > deadline:
                raise Refused(f"CustomResourceDefinition {name} is not served after 30 s")
            time.sleep(0.1)

    def serves(self, definition: Object) -> bool:
        """Whether the kind of a CustomResourceDefinition is established and found by discovery, in every version."""
        conditions = {entry["type"]: entry["status"] for entry in definition.get("status", {}).get("conditions") or []}
        if conditions.get("Established") != "True":
            return False
        return self._finds(definition)

    def _finds(self, definition: Object) -> bool:
        """Whether discovery tells of a definition's kind, in every version."""
        spec = definition["spec"]
        try:
            for version in spec["versions"]:
                if version["served"]:
                    self.kind(f"{spec['group']}/{version['name']}", spec["names"]["kind"])
        except NoKind:
            return False
        return True

    def delete(self, item: Object, propagation: str) -> None:
        """Ask for deletion. An object that is not there is fine."""
        try:
            self._json("DELETE", self.path(item), json={"propagationPolicy": propagation})
        except NoKind:
            return
        except ApiError as error:
            if error.code != 404:
                raise

    def warnings(self, item: Object, since: str) -> list[str]:
        """Texts of the warning events about an object and what was made for it, newest last, each once.

        Args:
            item: the object; what was made for it has a name that begins with its name.
            since: only events after this second, as `second` gives it.
        """
        metadata = item["metadata"]
        namespace, name = metadata.get("namespace", "default"), metadata["name"]
        events = self.read(f"/api/v1/namespaces/{namespace}/events", fieldSelector="type=Warning")["items"]
        events.sort(key=_moment)
        texts = [
            f"{event['reason']}: {event['message']}"
            for event in events
            if f"{event['involvedObject']['name']}-".startswith(f"{name}-") and _moment(event)[: len(since)] > since
        ]
        return list(dict.fromkeys(texts))

    def path(self, item: Object) -> str:
        """Path of an object by its apiVersion, kind, namespace and name.

        Raises:
            NoKind: the server does not know the kind.
        """
        kind, metadata = self.kind(item["apiVersion"], item["kind"]), item["metadata"]
        place = f"/namespaces/{metadata.get('namespace') or self.namespace}" if kind.namespaced else ""
        return f"{kind.base}{place}/{kind.plural}/{quote(metadata['name'])}"

    def _discover(self, api_version: str) -> None:
        base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            resources = self.read(base)["resources"]
        except ApiError as error:
            if error.code == 404:
                return
            raise
        for resource in resources:
            if "/" not in resource["name"]:
                self._kinds[api_version, resource["kind"]] = Kind(base, resource["name"], resource["namespaced"])

    def _apply(self, path: str, body: bytes, parameters: Mapping[str, str]) -> tuple[Object, list[str]]:
        headers = {"Content-Type": "application/apply-patch+yaml"}
        answer = self._request("PATCH", path, params=parameters, content=body, headers=headers)
        return answer.json(), answer.headers.get_list("warning")

    def _json(self, method: str, path: str, **options: Any) -> Object:
        return self._request(method, path, **options).json()

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise Refused(f"the API server at {self._client.base_url} does not answer: {error}") from error
        if answer.is_success:
            return answer
        try:
            status: dict[str, Any] = answer.json()
        except ValueError:
            status = {"message": answer.text}
        raise ApiError(
            answer.status_code, status.get("reason", ""), status.get("message", ""), status.get("details") or {}
        )


def second() -> str:
    """The present second as Kubernetes writes it, without its zone."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _moment(event: Object) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or ""


def _kubeconfig(given: str) -> dict[str, Any]:
    text = given if "\n" in given or given.lstrip().startswith("{") else None
    if text is None:
        try:
            text = Path(given).expanduser().read_text()
        except OSError as error:
            raise Refused(f"kubeconfig: {given} cannot be read: {error.strerror}") from error
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or "contexts" not in document:
        raise Refused("kubeconfig: this is no kubeconfig: it has no contexts")
    return document


def _named(document: Mapping[str, Any], what: str, name: str | None) -> dict[str, Any]:
    for entry in document.get(f"{what}s") or []:
        if entry["name"] == name:
            return entry[what]
    raise Refused(f"kubeconfig: there is no {what} {name!r}")


def _inline(entry: Mapping[str, Any], key: str) -> str | None:
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"]).decode()
    return Path(entry[key]).read_text() if key in entry else None


def _check_exec(login: Mapping[str, Any]) -> None:
    if not str(login.get("apiVersion", "")).startswith("client.authentication.k8s.io/v1"):
        raise Refused("kubeconfig: exec.apiVersion must be client.authentication.k8s.io/v1beta1 or v1")
    if not login.get("command"):
        raise Refused("kubeconfig: exec.command is missing")
    if str(login["apiVersion"]).endswith("/v1") and not login.get("interactiveMode"):
        raise Refused("kubeconfig: exec.interactiveMode must be set with client.authentication.k8s.io/v1")
