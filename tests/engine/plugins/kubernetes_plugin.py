"""Stand-in for ``pulumi-resource-kubernetes``, which no package index carries: every object meets a real API server.

A preview is a server-side dry run with strict field validation, an update a server-side apply that waits until the
object is ready. What it cannot do is in `LIMITS`, and it refuses what it would otherwise only pretend to do.
"""

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import kubernetes_charts as charts
import kubernetes_ready as ready
from kubernetes_api import FIELD_MANAGER, ApiError, Cluster, NoKind, Object, access, second
from plugin_kit import (
    UNKNOWN,
    NotReady,
    Path,
    Plain,
    Refused,
    diff_response,
    differences,
    has_unknown,
    old_inputs,
    plain,
    properties,
    serve,
    tell,
    token,
)
from pulumi.provider.experimental import provider as sdk
from pulumi.provider.experimental.property_value import PropertyValue

VERSION = "4.34.2"

LIMITS = (
    "no YAML, Kustomize, Helm Chart, *Patch or *List resources: they are refused",
    "a Helm Release brings its chart's kinds, no webhooks, and no pods but those of KubeRay's operator where pods run;"
    " only the charts " + ", ".join(charts.CHARTS),
    "objects of a kind that a chart or definition of the same stack brings are not validated in the first preview",
    "no load balancer gets an address, and none is waited for; Ingresses are not waited for",
    "custom resources are ready when they are applied; pulumi.com/waitFor is refused",
    "objects are applied as field manager 'pulumi-kubernetes', by force",
)
"""What this stand-in does not do, as it says at the start of every preview and update."""

SETTINGS = frozenset(
    {
        *("cluster", "context", "enableConfigMapMutable", "enableSecretMutable", "enableServerSideApply"),
        *("kubeconfig", "namespace", "suppressDeprecationWarnings", "suppressHelmHookWarnings"),
        *("upsertExistingObjects", "version", "pluginDownloadURL"),
    }
)
"""Settings of the provider that are emulated."""

AUTONAMED = "pulumi.com/autonamed"
SKIP_AWAIT = "pulumi.com/skipAwait"
PROPAGATION = "pulumi.com/deletionPropagationPolicy"
ANNOTATIONS = frozenset({AUTONAMED, SKIP_AWAIT, PROPAGATION})
"""Annotations of Pulumi's that are emulated."""

IDENTITY = ("apiVersion", "kind", "metadata.name", "metadata.namespace")
"""Fields whose change is another object."""

REPLACED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("v1", "ConfigMap"): ("data", "binaryData", "immutable"),
    ("v1", "Secret"): ("data", "stringData", "type", "immutable"),
    ("batch/v1", "Job"): ("spec.completions", "spec.parallelism"),
    ("apps/v1", "StatefulSet"): ("spec.revisionHistoryLimit",),
}
"""Fields that the API server would change and Pulumi's provider replaces for, as it does by default."""

SERVER_ONLY = ("uid", "resourceVersion", "creationTimestamp", "generation")
"""Metadata that only an existing object has."""

POLL_SECONDS = 0.2


class KubernetesProvider(sdk.Provider):
    """Pulumi's Kubernetes provider over a real API server."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._settings: dict[str, Any] = {}
        self._coming: dict[tuple[str, str], bool] = {}
        self._coming_lock = threading.Lock()
        self._patience = float(os.environ.get("MODELPORT_TEST_PATIENCE", "60"))

    async def configure(self, request: sdk.ConfigureRequest) -> sdk.ConfigureResponse:
        """Connect."""
        self._settings = plain(request.args).values
        if unknown := sorted(self._settings.keys() - SETTINGS):
            raise Refused(f"the stand-in for the Kubernetes provider emulates no setting {', '.join(unknown)}")
        if self._setting("enableServerSideApply") == "false":
            raise Refused("the stand-in for the Kubernetes provider applies on the server's side only")
        self._cluster = await asyncio.to_thread(lambda: Cluster(access(self._settings)))
        await asyncio.to_thread(tell, "\n  - ".join(("the stand-in for the Kubernetes provider:", *LIMITS)))
        return sdk.ConfigureResponse(accept_secrets=True, supports_preview=True)

    async def check(self, request: sdk.CheckRequest) -> sdk.CheckResponse:
        """Complete the inputs, and refuse what is not emulated."""
        return await asyncio.to_thread(self._check, request)

    async def diff(self, request: sdk.DiffRequest) -> sdk.DiffResponse:
        """Compare; the API server says what is immutable."""
        return await asyncio.to_thread(self._diff, request)

    async def create(self, request: sdk.CreateRequest) -> sdk.CreateResponse:
        """Apply something new."""
        resource_id, outputs = await asyncio.to_thread(self._create, request)
        return sdk.CreateResponse(resource_id=resource_id, properties=outputs)

    async def update(self, request: sdk.UpdateRequest) -> sdk.UpdateResponse:
        """Apply a change."""
        return sdk.UpdateResponse(properties=await asyncio.to_thread(self._update, request))

    async def read(self, request: sdk.ReadRequest) -> sdk.ReadResponse:
        """Read what is there; the inputs become what the cluster has where somebody changed it."""
        return await asyncio.to_thread(self._read, request)

    async def delete(self, request: sdk.DeleteRequest) -> None:
        """Delete, and wait until it is gone."""
        await asyncio.to_thread(self._delete, request)

    async def invoke(self, request: sdk.InvokeRequest) -> sdk.InvokeResponse:
        """No function is emulated."""
        raise Refused(f"the stand-in for the Kubernetes provider has no function {request.tok}")

    async def construct(self, request: sdk.ConstructRequest) -> sdk.ConstructResponse:
        """No component is emulated."""
        raise Refused(f"the stand-in for the Kubernetes provider has no component {request.resource_type}")

    @property
    def _api(self) -> Cluster:
        assert self._cluster is not None, "the engine configures a provider before it uses it"
        return self._cluster

    def _setting(self, name: str) -> str:
        return str(self._settings.get(name, "")).lower()

    def _check(self, request: sdk.CheckRequest) -> sdk.CheckResponse:
        given = plain(request.new_inputs)
        if token(request) == charts.RELEASE:
            return self._check_release(request, given)
        failures = [
            sdk.CheckFailure(property=field, reason=why) for field, why in refusals(token(request), given.values)
        ]
        if failures:
            return sdk.CheckResponse(inputs=request.new_inputs, failures=failures)
        inputs = dict(given.values)
        metadata: dict[str, Any] = dict(inputs.get("metadata") or {})
        if not metadata.get("name"):
            metadata.update(_autoname(request, metadata))
        if self._namespaced(inputs["apiVersion"], inputs["kind"]):
            metadata.setdefault("namespace", self._api.namespace)
        inputs["metadata"] = metadata
        return sdk.CheckResponse(inputs=properties(inputs, _secrets(inputs, given.secrets)))

    def _check_release(self, request: sdk.CheckRequest, given: Plain) -> sdk.CheckResponse:
        inputs = {"namespace": self._api.namespace, **given.values}
        inputs.setdefault("name", plain(request.old_inputs).values.get("name") or _random_name(request))
        failures = [sdk.CheckFailure(property=field, reason=why) for field, why in charts.refusals(inputs)]
        if not failures and inputs["chart"] != UNKNOWN:
            self._expect({(item.group, item.kind): item.namespaced for item in charts.definitions(inputs)})
        return sdk.CheckResponse(inputs=properties(inputs, given.secrets), failures=failures)

    def _diff(self, request: sdk.DiffRequest) -> sdk.DiffResponse:
        old, new = old_inputs(request).values, plain(request.new_inputs).values
        changed = differences(old, new)
        if token(request) == charts.RELEASE:
            return diff_response(
                changed, {path for path in changed if path in ("name", "namespace")}, delete_before_replace=True
            )
        forced = (*IDENTITY, *self._replaced(new))
        replaces = {path for path in changed if any(_within(path, field) for field in forced)}
        if changed and not replaces and not has_unknown(new):
            replaces = self._immutable(new, changed)
        # The engine asks for a new name when it replaces an object that Pulumi has named.
        autonamed = AUTONAMED in (new["metadata"].get("annotations") or {})
        moved = any(path in ("metadata.name", "metadata.namespace") for path in replaces)
        return diff_response(changed, replaces, delete_before_replace=not autonamed and not moved)

    def _replaced(self, item: Object) -> tuple[str, ...]:
        kind = item["kind"]
        if kind in ("ConfigMap", "Secret"):
            variable = f"PULUMI_K8S_ENABLE_{kind.upper()}_MUTABLE"
            allowed = self._setting(f"enable{kind}Mutable") or os.environ.get(variable, "").lower()
            if allowed == "true":
                return ()
        return REPLACED.get((item["apiVersion"], kind), ())

    def _immutable(self, new: Object, changed: Mapping[str, sdk.PropertyDiffKind]) -> set[str]:
        try:
            self._api.apply(new, dry_run=True)
        except ApiError as error:
            if not error.immutable:
                return set()  # the update itself will say what is wrong
            named = {path for path in changed if any(field and _within(path, field) for field in error.fields)}
            return named or set(changed)
        except NoKind:
            return set()
        return set()

    def _create(self, request: sdk.CreateRequest) -> tuple[str, dict[str, PropertyValue]]:
        given = plain(request.properties)
        item = given.values
        if token(request) == charts.RELEASE:
            if request.preview:
                return "", properties({**item, "status": UNKNOWN}, given.secrets)
            return f"{item['namespace']}/{item['name']}", self._release(given, 1, request.urn, request.timeout)
        if request.preview and has_unknown(item):
            return "", _outputs(item, given.secrets)
        if request.preview:
            return "", self._preview_create(item, given.secrets, request.urn)
        if self._api.get(item) is not None and self._setting("upsertExistingObjects") != "true":
            raise Refused(f"{item['kind']} {_identity(item)} already exists; it is not Pulumi's")
        return _identity(item), self._apply(given, request.urn, request.timeout)

    def _preview_create(self, item: Object, secrets: frozenset[Path], urn: str) -> dict[str, PropertyValue]:
        expected = {**item, "status": UNKNOWN, "metadata": {**item["metadata"], **dict.fromkeys(SERVER_ONLY, UNKNOWN)}}
        if item["kind"] == "Service":
            expected["spec"] = {"clusterIP": UNKNOWN, **(item.get("spec") or {})}
        try:
            # The object that this one replaces may still be there: ask for another name.
            there = self._api.get(item) is not None
            asked = _elsewhere(item, name=f"{item['metadata']['name']}-x") if there else item
            _, warnings = self._dry_run(asked)
        except NoKind:
            if self._comes(item) is None:
                raise Refused(
                    f"the cluster has no kind {item['kind']} in {item['apiVersion']}, and no chart or definition that"
                    " this resource depends on brings it"
                ) from None
            warnings = []
        for warning in warnings:
            tell(warning, urn=urn, warning=True)
        if item["kind"] == "CustomResourceDefinition":
            spec = item["spec"]
            self._expect({(spec["group"], spec["names"]["kind"]): spec["scope"] == "Namespaced"})
        return _outputs(expected, secrets)

    def _dry_run(self, item: Object) -> tuple[Object, list[str]]:
        try:
            return self._api.apply(item, dry_run=True)
        except ApiError as error:
            if not error.missing_namespace:
                raise
        # Its namespace comes in this same update; the schema and admission are the same in another one.
        return self._api.apply(_elsewhere(item, namespace="default"), dry_run=True)

    def _update(self, request: sdk.UpdateRequest) -> dict[str, PropertyValue]:
        given = plain(request.news)
        item = given.values
        if token(request) == charts.RELEASE:
            if request.preview:
                return properties({**item, "status": UNKNOWN}, given.secrets)
            revision = plain(request.olds).values.get("status", {}).get("revision", 0) + 1
            return self._release(given, revision, request.urn, request.timeout)
        if not request.preview:
            return self._apply(given, request.urn, request.timeout)
        if has_unknown(item):
            return _outputs(item, given.secrets)
        live, warnings = self._dry_run(item)
        for warning in warnings:
            tell(warning, urn=request.urn, warning=True)
        return _outputs(live, given.secrets)

    def _apply(self, given: Plain, urn: str, timeout: float) -> dict[str, PropertyValue]:
        item = given.values
        live, warnings = self._api.apply(item)
        for warning in warnings:
            tell(warning, urn=urn, warning=True)
        if (item["metadata"].get("annotations") or {}).get(SKIP_AWAIT) == "true":
            return _outputs(live, given.secrets)
        deadline = time.monotonic() + (timeout or self._patience)
        since = second()
        while (waiting := self._pending(live)) is not None:
            if not ready.observed(live):
                since = second()  # until then its controller complains about what was there before
            if waiting.hopeless or time.monotonic() > deadline or self._hopeless(live, since):
                reasons = [waiting.reason, *self._api.warnings(live, since)[-3:]]
                raise NotReady(_identity(item), _outputs(live, given.secrets), properties(item, given.secrets), reasons)
            time.sleep(POLL_SECONDS)
            live = self._api.get(item) or live
        return _outputs(live, given.secrets)

    def _pending(self, live: Object) -> ready.Pending | None:
        waiting = ready.pending(live)
        if live["kind"] == "CustomResourceDefinition":
            return None if self._api.serves(live) else waiting or ready.Pending("its kind is not served")
        if live["kind"] == "PersistentVolumeClaim" and waiting is not None and self._binds_late(live):
            return None
        if live["kind"] == "Service" and live["apiVersion"] == "v1":
            return self._pending_service(live)
        return waiting

    def _pending_service(self, live: Object) -> ready.Pending | None:
        spec = live["spec"]
        if not spec.get("selector") or spec.get("clusterIP") == "None" or spec.get("type") == "ExternalName":
            return None
        metadata = live["metadata"]
        slices = self._api.read(
            f"/apis/discovery.k8s.io/v1/namespaces/{metadata['namespace']}/endpointslices",
            labelSelector=f"kubernetes.io/service-name={metadata['name']}",
        )["items"]
        endpoints = [endpoint for part in slices for endpoint in part.get("endpoints") or []]
        if any(endpoint.get("conditions", {}).get("ready") for endpoint in endpoints):
            return None
        return ready.Pending("no ready pod matches its selector")

    def _binds_late(self, claim: Object) -> bool:
        name = claim["spec"].get("storageClassName")
        if not name:
            return False
        found = self._api.get({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}})
        return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"

    def _hopeless(self, live: Object, since: str) -> bool:
        if live["kind"] not in ("StatefulSet", "DaemonSet", "Job"):
            return False
        return any(ready.POD_SECURITY in text for text in self._api.warnings(live, since))

    def _release(self, given: Plain, revision: int, urn: str, timeout: float) -> dict[str, PropertyValue]:
        inputs = given.values
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": inputs["namespace"]}}
        if self._api.get(namespace) is None:
            if inputs.get("createNamespace") is not True:
                raise Refused(f"release {inputs['name']}: namespace {inputs['namespace']} is not there")
            self._api.apply(namespace)
        for definition in charts.definitions(inputs):
            self._api.apply_definition(definition.name, definition.document)
        for item in charts.CHARTS[inputs["chart"]].objects(inputs):
            self._apply(Plain(item, frozenset()), urn, timeout)
        status = {
            "chart": inputs["chart"],
            "name": inputs["name"],
            "namespace": inputs["namespace"],
            "revision": revision,
            "status": "deployed",
            "version": inputs["version"],
        }
        return properties({**inputs, "status": status}, given.secrets)

    def _read(self, request: sdk.ReadRequest) -> sdk.ReadResponse:
        if token(request) == charts.RELEASE:
            if not request.properties:
                raise Refused("the stand-in for the Kubernetes provider cannot import a Release")
            return sdk.ReadResponse(request.resource_id, request.properties, request.inputs)
        state, inputs = plain(request.properties), plain(request.inputs)
        item = state.values if "metadata" in state.values else _reference(token(request), request.resource_id)
        live = self._api.get(item)
        if live is None:
            return sdk.ReadResponse()
        kept = self._present(inputs.values, live) if inputs.values else _imported(live)
        secrets = _secrets(kept, inputs.secrets)
        return sdk.ReadResponse(request.resource_id, _outputs(live, secrets), properties(kept, secrets))

    def _present(self, inputs: Object, live: Object) -> Object:
        """The inputs if applying them would change nothing, else their fields as the cluster has them."""
        try:
            applied, _ = self._api.apply(inputs, dry_run=True)
        except ApiError as error:
            if error.code != 422:
                raise
            return _in_shape(live, inputs)
        return inputs if _comparable(applied) == _comparable(live) else _in_shape(live, inputs)

    def _delete(self, request: sdk.DeleteRequest) -> None:
        state = plain(request.properties).values
        if token(request) == charts.RELEASE:
            for item in reversed(charts.CHARTS[state["chart"]].objects(state)):
                self._gone(item, request.timeout)
            if not charts.CHARTS[state["chart"]].keeps_definitions:
                for definition in charts.definitions(state):
                    self._gone(_definition_object(definition.name), request.timeout)
            return
        self._gone(state if "metadata" in state else _reference(token(request), request.resource_id), request.timeout)

    def _gone(self, item: Object, timeout: float) -> None:
        """Delete an object and wait until it is gone: in the foreground after all that waits for it."""
        live = self._api.get(item)
        if live is None:
            return
        uid = live["metadata"]["uid"]
        self._api.delete(item, propagation(item))
        deadline = time.monotonic() + (timeout or self._patience)
        while (live := self._api.get(item)) is not None and live["metadata"]["uid"] == uid:
            if time.monotonic() > deadline:
                left = live["metadata"].get("finalizers") or (live.get("spec") or {}).get("finalizers")
                raise Refused(f"{item['kind']} {_identity(item)} is still there; finalizers: {left}")
            time.sleep(POLL_SECONDS)

    def _namespaced(self, api_version: str, kind: str) -> bool:
        try:
            return self._api.kind(api_version, kind).namespaced
        except NoKind:
            return bool(self._coming.get((_group(api_version), kind)))

    def _expect(self, kinds: Mapping[tuple[str, str], bool]) -> None:
        with self._coming_lock:
            self._coming.update(kinds)

    def _comes(self, item: Object) -> bool | None:
        return self._coming.get((_group(item["apiVersion"]), item["kind"]))


def propagation(item: Object) -> str:
    """How the deletion of an object goes on to what it owns: as its annotation says, else in the foreground.

    What no controller makes anything of is deleted in the background, where nothing is said: it comes to the same, and
    takes the garbage collector out of it.
    """
    said = str((item["metadata"].get("annotations") or {}).get(PROPAGATION, "")).lower()
    if said in ("orphan", "background"):
        return said.capitalize()
    return "Foreground" if said or _owns_others(item) else "Background"


def refusals(type_token: str, inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with an object's inputs, or not emulated: pairs of property and reason."""
    _, module, name = type_token.split(":")
    if module.startswith(("helm.sh/", "kustomize", "yaml")):
        return [("", f"the stand-in for the Kubernetes provider emulates no {type_token}")]
    if name.endswith(("Patch", "List")):
        return [("", f"the stand-in for the Kubernetes provider emulates no {name}: use the object itself")]
    found = [
        (field, "required, a known value")
        for field in ("apiVersion", "kind")
        if inputs.get(field) in (None, "", UNKNOWN)
    ]
    metadata = inputs.get("metadata") or {}
    if not isinstance(metadata, dict):
        return [*found, ("metadata", "must be a mapping that the program knows")]
    if metadata.get("generateName"):
        found.append(("metadata.generateName", "not emulated: leave the name away, and Pulumi makes one"))
    annotations = metadata.get("annotations") or {}
    if isinstance(annotations, dict):
        found += [
            (f'metadata.annotations["{key}"]', "not emulated by the stand-in")
            for key in annotations
            if key.startswith("pulumi.com/") and key not in ANNOTATIONS
        ]
    return found


def _autoname(request: sdk.CheckRequest, metadata: Mapping[str, Any]) -> dict[str, Any]:
    old = plain(request.old_inputs).values.get("metadata") or {}
    autonamed = (old.get("annotations") or {}).get(AUTONAMED) == "true"
    return {
        "name": old["name"] if autonamed else _random_name(request),
        "annotations": {**(metadata.get("annotations") or {}), AUTONAMED: "true"},
    }


def _random_name(request: sdk.CheckRequest) -> str:
    return f"{request.name}-{bytes(request.random_seed).hex()[:8]}".lower()


def _secrets(inputs: Mapping[str, Any], secrets: frozenset[Path]) -> frozenset[Path]:
    """The secret paths of an object: those given, and all that a Secret holds."""
    return secrets | {("data",), ("stringData",)} if inputs.get("kind") == "Secret" else secrets


def _outputs(live: Object, secrets: frozenset[Path]) -> dict[str, PropertyValue]:
    metadata = {key: value for key, value in live["metadata"].items() if key != "managedFields"}
    kept = {**live, "metadata": metadata, "__fieldManager": FIELD_MANAGER, "__initialApiVersion": live["apiVersion"]}
    return properties(kept, _secrets(live, secrets))


def _identity(item: Object) -> str:
    metadata = item["metadata"]
    return "/".join(part for part in (metadata.get("namespace"), metadata["name"]) if part)


def _elsewhere(item: Object, **metadata: str) -> Object:
    return {**item, "metadata": {**item["metadata"], **metadata}}


def _reference(type_token: str, resource_id: str) -> Object:
    """An object's identity by its type token and id, as ``get`` and ``import`` give it."""
    _, module, kind = type_token.split(":")
    namespace, _, name = resource_id.rpartition("/")
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"apiVersion": module.removeprefix("core/"), "kind": kind, "metadata": metadata}


def _definition_object(name: str) -> Object:
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}}


def _imported(live: Object) -> Object:
    """Inputs of an object that Pulumi did not make."""
    known = ("name", "namespace", "labels", "annotations")
    inputs = {key: value for key, value in live.items() if key not in ("metadata", "status")}
    return {**inputs, "metadata": {key: live["metadata"][key] for key in known if key in live["metadata"]}}


def _in_shape(live: Any, wanted: Any) -> Any:
    """The values of ``live`` at the places that ``wanted`` has."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return {key: _in_shape(live[key], value) for key, value in wanted.items() if key in live}
    if isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        return [_in_shape(there, here) for there, here in zip(live, wanted, strict=True)]
    return live


def _comparable(item: Object) -> Object:
    volatile = ("managedFields", "resourceVersion", "generation")
    metadata = {key: value for key, value in item["metadata"].items() if key not in volatile}
    return {**{key: value for key, value in item.items() if key != "status"}, "metadata": metadata}


def _within(path: str, field: str) -> bool:
    return path == field or path.startswith((f"{field}.", f"{field}["))


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _owns_others(item: Object) -> bool:
    group = _group(item["apiVersion"])
    return group in ("apps", "batch") or ("." in group and not group.endswith(".k8s.io"))


if __name__ == "__main__":
    serve(KubernetesProvider(), VERSION)
