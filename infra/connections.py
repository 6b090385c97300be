"""How each role reaches the platform: one document per role, as a Secret where its pods and people may read it.

What people may do beyond reading a Secret, for `modelport connect`, is in `grants`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes

from components import connection
from components.labels import MANAGED_BY, PART_OF
from infra.network import Namespace
from infra.settings import CALLER, ROLES

DIRECTORY = "modelport-directory"
"""Name of the ConfigMap that says where things are, and which stack that is."""

Access = Mapping[str, Sequence[str]]
"""Groups of people, by role or caller: ``modelport:access``."""

_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Endpoints:
    """Where the platform's services are, and what their keys are; one place that all documents are made from."""

    s3_endpoint: pulumi.Input[str]
    s3_region: pulumi.Input[str]
    bucket: str
    access_keys: pulumi.Output[Mapping[str, str]]
    secret_keys: pulumi.Output[Mapping[str, str]]
    tracking_url: pulumi.Input[str]
    tracking_users: pulumi.Output[Mapping[str, str]]
    """Password by user."""


def document(endpoints: Endpoints, role: str, **more: pulumi.Input[object]) -> pulumi.Output[str]:
    """A role's connection: the object store with its one key, and what else it needs."""
    key = pulumi.Output.all(endpoints.access_keys, endpoints.secret_keys).apply(
        lambda keys: {"access_key": keys[0][role], "secret_key": keys[1][role]}
    )
    content = {
        "s3_endpoint": endpoints.s3_endpoint,
        "s3_region": endpoints.s3_region,
        "bucket": endpoints.bucket,
        "s3_keys": {role: key},
        **more,
    }
    return pulumi.Output.secret(pulumi.Output.json_dumps(content, sort_keys=True))


def tracking(endpoints: Endpoints, user: str) -> dict[str, pulumi.Input[object]]:
    """A user's part of a document."""
    return {
        "tracking_uri": endpoints.tracking_url,
        "tracking_username": user,
        "tracking_password": endpoints.tracking_users.apply(lambda passwords: passwords[user]),
    }


class ConnectionSecret(pulumi.ComponentResource):
    """A role's connection as a Secret, and a Role that lets the given groups read it and nothing else."""

    secret: pulumi.Output[str]
    """Name of the Secret."""

    def __init__(
        self,
        name: str,
        namespace: pulumi.Input[str],
        content: pulumi.Output[str],
        generation: str,
        readers: tuple[str, ...],
        labels: Mapping[str, str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("modelport:infra:ConnectionSecret", name, None, opts)
        mine = pulumi.ResourceOptions(parent=self)

        def metadata(object_name: str) -> kubernetes.meta.v1.ObjectMetaArgsDict:
            own = {**labels, PART_OF: "modelport", MANAGED_BY: "pulumi"}
            return {"name": object_name, "namespace": namespace, "labels": own}

        # Named by the generation of its credentials: a rotation rolls the pods that mount it, and those that are still
        # there keep what they started with until they are gone.
        secret_name = f"{name}-{generation}"
        secret = kubernetes.core.v1.Secret(
            name, metadata=metadata(secret_name), string_data={connection.FILE: content}, opts=mine
        )
        if readers:
            rules: list[kubernetes.rbac.v1.PolicyRuleArgsDict] = [
                {"api_groups": [""], "resources": ["secrets"], "resource_names": [secret_name], "verbs": ["get"]}
            ]
            allow(f"{name}-reader", metadata(f"{name}-reader"), readers, rules, mine)
        self.secret = secret.metadata.apply(lambda made: made.name or secret_name)
        self.register_outputs({"secret": self.secret})


def allow(
    name: str,
    metadata: kubernetes.meta.v1.ObjectMetaArgsDict,
    groups: Sequence[str],
    rules: Sequence[kubernetes.rbac.v1.PolicyRuleArgsDict],
    opts: pulumi.ResourceOptions,
) -> None:
    """A Role with these rules, and its binding to groups of people; `metadata` is that of both."""
    assert "name" in metadata
    role = metadata["name"]
    assert isinstance(role, str)
    kubernetes.rbac.v1.Role(name, metadata=metadata, rules=list(rules), opts=opts)
    kubernetes.rbac.v1.RoleBinding(
        name,
        metadata=metadata,
        role_ref={"api_group": _RBAC, "kind": "Role", "name": role},
        subjects=[{"kind": "Group", "name": group, "api_group": _RBAC} for group in groups],
        opts=opts,
    )


@dataclass(frozen=True)
class Grant:
    """What groups of people may do in a namespace."""

    name: str
    namespace: Namespace
    groups: tuple[str, ...]
    rules: tuple[kubernetes.rbac.v1.PolicyRuleArgsDict, ...]


def groups_of(access: Access, *names: str) -> tuple[str, ...]:
    """Everybody who has one of these roles, or is one of these callers. Pure."""
    return tuple(sorted({group for name in names for group in access.get(name, ())}))


def everybody(access: Access) -> tuple[str, ...]:
    """Everybody who has anything of the stack. Pure."""
    return groups_of(access, *access)


def grants(
    access: Access,
    *,
    services: Sequence[str],
    gateway: str,
    gateway_replicas: int,
    key_secrets: Mapping[str, pulumi.Input[str]],
) -> list[Grant]:
    """What people may do in the cluster beyond reading what is theirs: reach services, train. Pure.

    Args:
        access: who has which role.
        services: names of the Services of object store and MLflow.
        gateway: name of the gateway's Service and StatefulSet.
        gateway_replicas: how many pods that has.
        key_secrets: Secret with the key of each caller.
    """
    callers = [name for name in access if name.startswith(CALLER)]
    # Of a StatefulSet the pods' names are known. MLflow's are not: who may reach it reaches every port of the
    # namespace, where each service asks for a password or key of its own.
    serving = [f"{gateway}-{number}" for number in range(gateway_replicas)]
    found = [
        Grant(
            "people-registry",
            Namespace.REGISTRY,
            groups_of(access, *ROLES),
            (_rule("services", "get", names=services), *_FORWARD_ANY),
        ),
        Grant(
            "people-gateway",
            Namespace.SERVING,
            groups_of(access, *callers),
            (
                _rule("services", "get", names=[gateway]),
                _rule("pods", "get", "list"),
                _rule("pods/portforward", "get", "create", names=serving),
            ),
        ),
        Grant(
            "people-training",
            Namespace.TRAINING,
            groups_of(access, "trainer"),
            (
                _rule("rayjobs", "get", "list", "create", "delete", group="ray.io"),
                _rule("configmaps", "get", "create"),
                # RayJobs name the one that they go with. Not by name: a new model changes nothing here.
                _rule("serviceaccounts", "get"),
                _rule("pods", "get", "list"),
                _rule("pods/log", "get"),
            ),
        ),
    ]
    for name in callers:
        caller = name.removeprefix(CALLER)
        found.append(
            Grant(
                f"caller-{caller}",
                Namespace.SERVING,
                groups_of(access, name),
                (_rule("secrets", "get", names=[key_secrets[caller]]),),
            )
        )
    return [grant for grant in found if grant.groups]


class People(pulumi.ComponentResource):
    """What people may do in the cluster: a Role and its binding for each grant."""

    def __init__(
        self,
        name: str,
        given: Sequence[Grant],
        namespaces: Mapping[Namespace, pulumi.Input[str]],
        labels: Mapping[str, str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("modelport:infra:People", name, None, opts)
        own = {**labels, PART_OF: "modelport", MANAGED_BY: "pulumi"}
        for grant in given:
            metadata: kubernetes.meta.v1.ObjectMetaArgsDict = {
                "name": grant.name,
                "namespace": namespaces[grant.namespace],
                "labels": own,
            }
            allow(grant.name, metadata, grant.groups, grant.rules, pulumi.ResourceOptions(parent=self))
        self.register_outputs({})


def _rule(
    resource: str, *verbs: str, group: str = "", names: Sequence[pulumi.Input[str]] = ()
) -> kubernetes.rbac.v1.PolicyRuleArgsDict:
    rule: kubernetes.rbac.v1.PolicyRuleArgsDict = {
        "api_groups": [group],
        "resources": [resource],
        "verbs": list(verbs),
    }
    if names:
        rule["resource_names"] = list(names)
    return rule


_FORWARD_ANY = (
    _rule("pods", "get", "list"),
    # Over a WebSocket it is a GET, over SPDY a POST.
    _rule("pods/portforward", "get", "create"),
)
