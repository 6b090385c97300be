"""Stand-in for ``pulumi-resource-gcp``, which no package index carries: checks inputs, plays Google's API in a file.

The file is ``$MODELPORT_TEST_GCP`` [default: ``gcp.json`` in Pulumi's home]; what is in it survives between commands,
so that refresh, drift and leftovers can be seen. It holds ``resources`` by type and id, and the ``services`` that were
ever enabled, which a destroy leaves on as the real one does. Secrets are not in it: Google does not tell them either.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeAlias, cast

from gcp_inputs import UNSHOWN, input_failures, inputs_of
from gcp_rules import (
    ACCOUNT,
    CLUSTER,
    NETWORK,
    NODE_POOL,
    ROUTER,
    ROUTER_NAT,
    SERVICE,
    SQL,
    SUBNETWORK,
    missing_api,
    missing_references,
    parts_of,
    rule_failures,
    users_of,
)
from plugin_kit import (
    UNKNOWN,
    Plain,
    Refused,
    diff_response,
    differences,
    has_unknown,
    old_inputs,
    old_state,
    plain,
    properties,
    serve,
    tell,
)
from pulumi.provider.experimental import provider as sdk
from pulumi.provider.experimental.property_value import PropertyValue

VERSION = "10.2.0"

HMAC_KEY = "gcp:storage/hmacKey:HmacKey"
USER = "gcp:sql/user:User"

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """How one type of resource is emulated."""

    id: str
    """Form of its id, from inputs, ``project`` and ``region``."""
    replaced_by: tuple[str, ...]
    """Inputs, or their beginnings, that cannot change in place; name, project, location and region always cannot."""
    link: str = ""
    """Service and version of its self link, such as ``compute/v1``; empty where it has none."""
    made: Callable[[Inputs], dict[str, Any]] | None = None
    """Outputs that Google makes up, from inputs with ``id`` and ``project``."""
    protects: bool | None = None
    """What ``deletionProtection`` is where it is not given; None for types without."""
    secret: tuple[str, ...] = ()
    """Outputs that are secret."""


def _hash(text: str, size: int = 12) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:size]


def _address(text: str, first: str) -> str:
    return f"{first}.{int(_hash(text, 2), 16)}.{int(_hash(text[::-1], 2), 16)}.2"


def _made_cluster(inputs: Inputs) -> dict[str, Any]:
    region = "-".join(inputs["location"].split("-")[:2])
    dns = f"gke-{_hash(inputs['id'])}-{int(_hash(inputs['id'], 8), 16)}.{region}.gke.goog"
    endpoints = inputs.get("controlPlaneEndpointsConfig", {})
    dns_config = {**endpoints.get("dnsEndpointConfig", {}), "endpoint": dns}
    return {
        "endpoint": _address(inputs["id"], "10.128"),
        "masterVersion": "1.33.5-gke.1162000",
        "servicesIpv4Cidr": "10.8.0.0/20",
        "controlPlaneEndpointsConfig": {**endpoints, "dnsEndpointConfig": dns_config},
    }


def _made_account(inputs: Inputs) -> dict[str, Any]:
    email = f"{inputs['accountId']}@{inputs['project']}.iam.gserviceaccount.com"
    number = str(int(_hash(email, 16), 16))
    return {
        "email": email,
        "member": f"serviceAccount:{email}",
        "name": f"projects/{inputs['project']}/serviceAccounts/{email}",
        "uniqueId": number,
    }


def _made_sql(inputs: Inputs) -> dict[str, Any]:
    private = _address(inputs["name"], "10.100")
    connection = f"{inputs['project']}:{inputs.get('region', 'us-central1')}:{inputs['name']}"
    return {
        "connectionName": connection,
        "privateIpAddress": private,
        "firstIpAddress": private,
        "ipAddresses": [{"type": "PRIVATE", "ipAddress": private, "timeToRetire": ""}],
        "serviceAccountEmailAddress": f"p1-{_hash(connection, 6)}@gcp-sa-cloud-sql.iam.gserviceaccount.com",
    }


def _made_hmac(inputs: Inputs) -> dict[str, Any]:
    # A fresh key for each resource: two generations of one account's key are both there for a while.
    return {"secret": token_hex(20), "state": "ACTIVE"}


_NETWORKED = ("network",)
KINDS: Mapping[str, Kind] = {
    SERVICE: Kind("{project}/{service}", ("service",)),
    "gcp:projects/iAMMember:IAMMember": Kind("{project}/{role}/{member}", ("role", "member", "condition")),
    ACCOUNT: Kind(
        "projects/{project}/serviceAccounts/{accountId}@{project}.iam.gserviceaccount.com",
        ("accountId",),
        made=_made_account,
    ),
    "gcp:serviceaccount/iAMMember:IAMMember": Kind(
        "{serviceAccountId}/{role}/{member}", ("serviceAccountId", "role", "member", "condition")
    ),
    NETWORK: Kind("projects/{project}/global/networks/{name}", ("autoCreateSubnetworks", "mtu"), "compute/v1"),
    SUBNETWORK: Kind(
        "projects/{project}/regions/{region}/subnetworks/{name}",
        ("network", "purpose", "ipCidrRange"),
        "compute/v1",
        lambda inputs: {"gatewayAddress": str(inputs.get("ipCidrRange", "")).rsplit(".", 1)[0] + ".1"},
    ),
    ROUTER: Kind("projects/{project}/regions/{region}/routers/{name}", _NETWORKED, "compute/v1"),
    ROUTER_NAT: Kind("{project}/{region}/{router}/{name}", ("router",)),
    "gcp:compute/globalAddress:GlobalAddress": Kind(
        "projects/{project}/global/addresses/{name}",
        ("address", "addressType", "network", "prefixLength", "purpose"),
        "compute/v1",
        lambda inputs: {"address": inputs.get("address") or _address(inputs["id"], "10.100")},
    ),
    CLUSTER: Kind(
        "projects/{project}/locations/{location}/clusters/{name}",
        (
            *("network", "subnetwork", "datapathProvider", "networkingMode", "initialNodeCount", "enableAutopilot"),
            *("ipAllocationPolicy.clusterSecondaryRangeName", "ipAllocationPolicy.servicesSecondaryRangeName"),
        ),
        "container/v1",
        _made_cluster,
        protects=True,
    ),
    NODE_POOL: Kind(
        "projects/{project}/locations/{location}/clusters/{cluster}/nodePools/{name}",
        (
            *("cluster", "initialNodeCount", "maxPodsPerNode", "nodeConfig.spot", "nodeConfig.flexStart"),
            *("nodeConfig.guestAccelerators", "nodeConfig.serviceAccount", "nodeConfig.oauthScopes"),
            *("nodeConfig.reservationAffinity", "nodeConfig.metadata", "nodeConfig.shieldedInstanceConfig"),
        ),
        made=lambda inputs: {"version": "1.33.5-gke.1162000", "instanceGroupUrls": [], "managedInstanceGroupUrls": []},
    ),
    "gcp:storage/bucket:Bucket": Kind(
        "{name}", ("storageClass",), "storage/v1/b", lambda inputs: {"url": f"gs://{inputs['name']}"}
    ),
    "gcp:storage/bucketIAMMember:BucketIAMMember": Kind(
        "b/{bucket}/{role}/{member}", ("bucket", "role", "member", "condition")
    ),
    HMAC_KEY: Kind(
        "projects/{project}/hmacKeys/{accessId}",
        ("serviceAccountEmail",),
        made=_made_hmac,
        secret=("secret",),
    ),
    SQL: Kind("{name}", ("settings.ipConfiguration.privateNetwork",), "sql/v1beta4", _made_sql, protects=True),
    "gcp:sql/database:Database": Kind("projects/{project}/instances/{instance}/databases/{name}", ("instance",)),
    USER: Kind("{name}//{instance}", ("instance", "type"), secret=("password",)),
    "gcp:servicenetworking/connection:Connection": Kind(
        "{network}:{service}",
        ("network", "service"),
        made=lambda inputs: {"peering": "servicenetworking-googleapis-com"},
    ),
    "gcp:kms/keyRing:KeyRing": Kind("projects/{project}/locations/{location}/keyRings/{name}", ()),
    "gcp:kms/cryptoKey:CryptoKey": Kind("{keyRing}/cryptoKeys/{name}", ("keyRing", "purpose")),
    "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": Kind(
        "{cryptoKeyId}/{role}/{member}", ("cryptoKeyId", "role", "member", "condition")
    ),
}
"""Every type that is emulated."""

_Request: TypeAlias = (
    sdk.CheckRequest | sdk.DiffRequest | sdk.CreateRequest | sdk.UpdateRequest | sdk.ReadRequest | sdk.DeleteRequest
)


def type_of(request: _Request) -> str:
    """The resource's own type; the SDK's has its parents' before it."""
    return request.type.rpartition("$")[2]


_NEVER_IN_PLACE = ("name", "project", "location", "region")


class Cloud:
    """What Google has, in a file that several commands and engines may share.

    Args:
        file: where; need not exist.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> dict[str, Any]:
        """``resources`` and ``services`` as they are."""
        return json.loads(self._file.read_text()) if self._file.exists() else {"resources": {}, "services": []}

    @contextmanager
    def change(self) -> Generator[dict[str, Any]]:
        """The same, to change; written back at the end, and not when that raises."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self.read()
            yield content
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps(content, indent=1, sort_keys=True))
            fresh.replace(self._file)


class GcpProvider(sdk.Provider):
    """Pulumi's gcp provider, as far as `KINDS` goes."""

    def __init__(self) -> None:
        home = os.environ.get("PULUMI_HOME", os.path.expanduser("~/.pulumi"))
        self._cloud = Cloud(Path(os.environ.get("MODELPORT_TEST_GCP", f"{home}/gcp.json")))
        self._defaults: dict[str, Any] = {}

    async def configure(self, request: sdk.ConfigureRequest) -> sdk.ConfigureResponse:
        """Take over project and region, and say what cannot be checked."""
        given = plain(request.args).values
        self._defaults = {key: given[key] for key in ("project", "region", "zone") if given.get(key)}
        tell("stand-in for the gcp provider; it does not check " + "; ".join(UNSHOWN))
        return sdk.ConfigureResponse(accept_secrets=True, supports_preview=True)

    async def check(self, request: sdk.CheckRequest) -> sdk.CheckResponse:
        """Refuse what the SDK's types or Google's rules refuse; fill in project and name."""
        given = plain(request.new_inputs)
        earlier = plain(request.old_inputs).values
        values = with_defaults(
            type_of(request), request.name, given.values, earlier, self._defaults, request.random_seed
        )
        failures = [
            sdk.CheckFailure(path, f"{path}: {why}" if path else why)
            for path, why in refusals(type_of(request), values)
        ]
        return sdk.CheckResponse(inputs=properties(values, given.secrets), failures=failures)

    async def diff(self, request: sdk.DiffRequest) -> sdk.DiffResponse:
        """What changes, and whether in place."""
        changed = differences(old_inputs(request).values, plain(request.new_inputs).values)
        return diff_response(changed, replacing(type_of(request), list(changed)))

    async def create(self, request: sdk.CreateRequest) -> sdk.CreateResponse:
        """Make it, if its API is enabled and what it refers to is there."""
        given = plain(request.properties)
        if request.preview:
            return sdk.CreateResponse(
                "", self._properties(type_of(request), unknown_outputs(type_of(request), given.values), given.secrets)
            )
        if has_unknown(given.values):
            raise Refused(f"{request.name}: an input is not known yet")
        outputs = outputs_of(type_of(request), given.values)
        key = f"{type_of(request)}::{outputs['id']}"
        with self._cloud.change() as content:
            resources: dict[str, Any] = content["resources"]
            api = missing_api(type_of(request), content["services"])
            if api is not None:
                raise Refused(f"{request.name}: {api} has not been used in this project before, or is disabled")
            for path, why in missing_references(type_of(request), given.values, resources):
                raise Refused(f"{request.name}: {path}: {why}")
            if key in resources and type_of(request) != SERVICE:
                raise Refused(f"{request.name}: {outputs['id']} already exists")
            resources[key] = _record(type_of(request), given, outputs)
            if type_of(request) == SERVICE and given.values["service"] not in content["services"]:
                content["services"].append(given.values["service"])
        return sdk.CreateResponse(str(outputs["id"]), self._properties(type_of(request), outputs, given.secrets))

    async def update(self, request: sdk.UpdateRequest) -> sdk.UpdateResponse:
        """Change it in place."""
        given = plain(request.news)
        if request.preview and has_unknown(given.values):
            outputs = {**old_state(request).values, **given.values}
            return sdk.UpdateResponse(self._properties(type_of(request), outputs, given.secrets))
        outputs = outputs_of(type_of(request), given.values)
        if not request.preview:
            with self._cloud.change() as content:
                key = f"{type_of(request)}::{request.resource_id}"
                if key not in content["resources"]:
                    raise Refused(f"{request.name}: {request.resource_id} does not exist any more")
                content["resources"][key] = _record(type_of(request), given, outputs)
        return sdk.UpdateResponse(self._properties(type_of(request), outputs, given.secrets))

    async def read(self, request: sdk.ReadRequest) -> sdk.ReadResponse:
        """What Google has now; nothing where it is gone."""
        found = self._cloud.read()["resources"].get(f"{type_of(request)}::{request.resource_id}")
        if found is None:
            return sdk.ReadResponse()
        earlier = plain(request.inputs)
        inputs = _with_secrets(found["inputs"], earlier.values)
        # What Google fills in beside an input stays there: a cluster's endpoint, say.
        outputs = _merged(_with_secrets(found["outputs"], plain(request.properties).values), inputs)
        return sdk.ReadResponse(
            resource_id=request.resource_id,
            inputs=properties(inputs, earlier.secrets),
            properties=self._properties(type_of(request), outputs, earlier.secrets),
        )

    async def delete(self, request: sdk.DeleteRequest) -> None:
        """Delete it, unless it is protected or in use."""
        state = plain(request.properties).values
        key = f"{type_of(request)}::{request.resource_id}"
        protected = state.get("deletionProtection", KINDS[type_of(request)].protects)
        if protected or state.get("settings", {}).get("deletionProtectionEnabled"):
            raise Refused(
                f"cannot destroy {request.resource_id} because deletion_protection is set to true; set it to false, "
                "update, and destroy then"
            )
        with self._cloud.change() as content:
            found = content["resources"].get(key)
            if found is None:
                return
            users = users_of(type_of(request), found["outputs"], content["resources"])
            if users:
                raise Refused(f"{request.resource_id} is still used by {', '.join(users)}")
            if state.get("deletionPolicy") == "ABANDON":
                return
            for gone in (key, *parts_of(type_of(request), found["outputs"], content["resources"])):
                del content["resources"][gone]
            if type_of(request) == SERVICE and state.get("disableOnDestroy", True):
                content["services"].remove(state["service"])

    async def invoke(self, request: sdk.InvokeRequest) -> sdk.InvokeResponse:
        """Answer the functions that programs ask for the project's number and identity."""
        project = plain(request.args).values.get("projectId") or self._defaults.get("project", "")
        answers = {
            "gcp:organizations/getProject:getProject": {
                "id": f"projects/{project}",
                "projectId": project,
                "number": str(int(_hash(project, 10), 16)),
            },
            "gcp:organizations/getClientConfig:getClientConfig": {"id": project, **self._defaults},
        }
        if request.tok not in answers:
            raise Refused(f"the stand-in for the gcp provider has no function {request.tok}")
        return sdk.InvokeResponse(return_value=properties(answers[request.tok]))

    def _properties(self, token: str, values: Inputs, secrets: frozenset[Any]) -> dict[str, PropertyValue]:
        return properties(values, {*secrets, *((key,) for key in KINDS[token].secret)})


def refusals(token: str, values: Inputs) -> list[tuple[str, str]]:
    """What is wrong with a resource's inputs, or not emulated: pairs of property and reason."""
    failures = input_failures(token, values)
    if not failures and token not in KINDS:
        return [("", f"the stand-in for the gcp provider emulates no {token}")]
    return failures or rule_failures(token, values)


def with_defaults(
    token: str, name: str, inputs: Inputs, earlier: Inputs, defaults: Inputs, seed: bytes
) -> dict[str, Any]:
    """Inputs with what the provider fills in by itself: project, region, and a name with some random letters."""
    known = inputs_of(token)
    filled = dict(inputs)
    for key in ("project", "region"):
        if key in known and key not in filled and key in defaults:
            filled[key] = defaults[key]
    for key in ("name", "accountId"):
        if key in known and key not in filled and token not in (SERVICE, USER):
            filled[key] = earlier.get(key) or f"{name}-{bytes(seed).hex()[:7] or _hash(name, 7)}"
    return filled


def replacing(token: str, changed: list[str]) -> list[str]:
    """Those of the changed paths that cannot change in place."""
    heads = (*_NEVER_IN_PLACE, *KINDS[token].replaced_by)
    return [
        path for path in changed if any(path == head or path.startswith((f"{head}.", f"{head}[")) for head in heads)
    ]


def outputs_of(token: str, inputs: Inputs) -> dict[str, Any]:
    """What the resource looks like when it is there.

    Raises:
        Refused: neither the resource nor the provider says in which project or region it is.
    """
    kind = KINDS[token]
    drawn = {"accessId": f"GOOG1E{token_hex(26).upper()}"} if token == HMAC_KEY else {}
    try:
        made_id = kind.id.format(**inputs, **drawn)
    except KeyError as error:
        raise Refused(f"{token}: {error.args[0]} is not set, neither here nor as gcp:{error.args[0]}") from error
    if "condition" in inputs:
        made_id += f"/{inputs['condition']['title']}"
    outputs: dict[str, Any] = {**inputs, **drawn, "id": made_id}
    if kind.link:
        outputs["selfLink"] = f"https://www.googleapis.com/{kind.link}/{made_id}"
    if kind.protects is not None:
        outputs.setdefault("deletionProtection", kind.protects)
    return {**outputs, **(kind.made(outputs) if kind.made else {})}


def unknown_outputs(token: str, inputs: Inputs) -> dict[str, Any]:
    """What a preview knows: the inputs. What Google makes up it does not."""
    kind = KINDS[token]
    unknown = {"selfLink": UNKNOWN} if kind.link else {"accessId": UNKNOWN} if token == HMAC_KEY else {}
    if kind.made is not None:
        example = {"name": "x", "location": "x-x", "project": "x", "accountId": "x", **_known(inputs), "id": "x"}
        unknown |= dict.fromkeys(kind.made(example), UNKNOWN)
    return {**inputs, **unknown}


_HIDDEN = "[secret]"


def _record(token: str, given: Plain, outputs: Inputs) -> dict[str, Any]:
    """What the file keeps of a resource: inputs and outputs, without secrets."""
    secrets = {*given.secrets, *((key,) for key in KINDS[token].secret)}
    return {
        "type": token,
        "inputs": _without(given.values, secrets, ()),
        "outputs": _without(dict(outputs), secrets, ()),
    }


def _without(value: Any, secrets: Collection[tuple[str | int, ...]], path: tuple[str | int, ...]) -> Any:
    if path in secrets:
        return _HIDDEN
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return {key: _without(item, secrets, (*path, key)) for key, item in entries.items()}
    if isinstance(value, list):
        return [_without(item, secrets, (*path, place)) for place, item in enumerate(cast("list[Any]", value))]
    return value


def _merged(computed: Any, given: Any) -> Any:
    """What was computed, with everything that was given in its place, at every depth."""
    if isinstance(computed, dict) and isinstance(given, dict):
        return {**computed, **{key: _merged(computed.get(key), value) for key, value in given.items()}}
    if isinstance(computed, list) and isinstance(given, list) and len(computed) == len(given):
        return [_merged(old, new) for old, new in zip(computed, given, strict=True)]
    return given


def _with_secrets(stored: Any, earlier: Any) -> Any:
    """What the file has, with the secrets of the state."""
    if stored == _HIDDEN:
        return earlier
    if isinstance(stored, dict) and isinstance(earlier, dict):
        entries, before = cast("dict[str, Any]", stored), cast("dict[str, Any]", earlier)
        return {key: _with_secrets(item, before.get(key)) for key, item in entries.items()}
    if isinstance(stored, list) and isinstance(earlier, list) and len(cast("list[Any]", stored)) == len(earlier):
        pairs = zip(cast("list[Any]", stored), cast("list[Any]", earlier), strict=True)
        return [_with_secrets(item, before) for item, before in pairs]
    return stored


def _known(inputs: Inputs) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if not has_unknown(value)}


if __name__ == "__main__":
    serve(GcpProvider(), VERSION)
