"""How each role reaches the platform: one document per role, as a Secret where its pods and people may read it."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes

from components.labels import MANAGED_BY, PART_OF

FILE = "connection.json"
"""Key of the document in its Secret; the content is a `modelport.connection.Connection`."""


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
        secret = kubernetes.core.v1.Secret(name, metadata=metadata(secret_name), string_data={FILE: content}, opts=mine)
        if readers:
            kubernetes.rbac.v1.Role(
                f"{name}-reader",
                metadata=metadata(f"{name}-reader"),
                rules=[
                    {"api_groups": [""], "resources": ["secrets"], "resource_names": [secret_name], "verbs": ["get"]}
                ],
                opts=mine,
            )
            kubernetes.rbac.v1.RoleBinding(
                f"{name}-reader",
                metadata=metadata(f"{name}-reader"),
                role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": f"{name}-reader"},
                subjects=[
                    {"kind": "Group", "name": group, "api_group": "rbac.authorization.k8s.io"} for group in readers
                ],
                opts=mine,
            )
        self.secret = secret.metadata.apply(lambda made: made.name or secret_name)
        self.register_outputs({"secret": self.secret})
