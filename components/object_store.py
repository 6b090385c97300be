"""S3-compatible object store, one access key per consumer: MinIO, SeaweedFS or Google Cloud Storage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_gcp as gcp
import pulumi_kubernetes as kubernetes

from components import minio, object_args, object_rights, object_server, pods, seaweedfs
from components.jobs import after, fingerprint, job_spec, service_account
from components.labels import Component, labels_for, selector_for
from components.node_pools import gcp_labels
from components.object_args import (
    ROOT,
    Consumer,
    Expiry,
    Gcs,
    Grant,
    ObjectStoreArgs,
    ObjectStoreEngine,
    ObjectStoreResources,
    StoreBucket,
)
from components.passwords import password
from components.pods import Manifest
from components.versions import Image

__all__ = [
    "Consumer",
    "Expiry",
    "Gcs",
    "Grant",
    "ObjectStore",
    "ObjectStoreArgs",
    "ObjectStoreEngine",
    "ObjectStoreResources",
    "StoreBucket",
]

_S3_REGION = "us-east-1"
_GCS_ENDPOINT = "https://storage.googleapis.com"
_SOFT_DELETE_SECONDS = 7 * 24 * 3600
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}

_Render = Callable[[str, ObjectStoreArgs, Mapping[str, str], pulumi.Input[str]], Manifest]
"""Renders a part of a store of a name, with labels and a service account."""


@dataclass(frozen=True)
class _Store:
    """What an engine gives."""

    endpoint: pulumi.Output[str]
    region: str
    access_keys: pulumi.Output[dict[str, str]]
    secret_keys: pulumi.Output[dict[str, str]]
    bucket_names: pulumi.Output[dict[str, str]]
    ready: pulumi.Output[str]


class ObjectStore(pulumi.ComponentResource):
    """An S3 API whose consumers can reach what they were granted, by prefix, and cannot even list the rest.

    MinIO runs as a StatefulSet. A Job of its own client makes buckets, lifecycles, users and policies, and runs again
    whenever one of them, or a key's generation, changes. SeaweedFS reads its identities when it starts, so that a new
    key restarts it. Volumes are resources of their own: they can grow, and `protect` keeps them.

    The engine `gcs` was never run against Google Cloud. Its S3-style API has no conditional writes (``If-Match``,
    ``If-None-Match`` on PUT), which the promotion log depends on: two promotions at once could both win. Until there is
    a log of another kind, use it for what needs no log.
    """

    endpoint: pulumi.Output[str]
    """URL of the S3 API."""
    region: pulumi.Output[str]
    """Region that requests are signed for."""
    access_keys: pulumi.Output[dict[str, str]]
    """Access key by consumer, known when the server takes it."""
    secret_keys: pulumi.Output[dict[str, str]]
    """Secret key by consumer, known when the server takes it."""
    bucket_names: pulumi.Output[dict[str, str]]
    """Real name by name of a bucket; another one only with the engine `gcs`."""
    ready: pulumi.Output[str]
    """Known when buckets, keys and rights are as they should be."""

    def __init__(self, name: str, args: ObjectStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelport:index:ObjectStore", name, {**args}, opts)
        object_args.check(args)
        engines = {
            ObjectStoreEngine.MINIO: self._minio,
            ObjectStoreEngine.SEAWEEDFS: self._seaweedfs,
            ObjectStoreEngine.GCS: self._gcs,
        }
        store = engines[ObjectStoreEngine(args["engine"])](name, args)
        self.endpoint = store.endpoint
        self.region = pulumi.Output.from_input(store.region)
        self.access_keys = store.access_keys
        self.secret_keys = pulumi.Output.secret(store.secret_keys)
        self.bucket_names = store.bucket_names
        self.ready = store.ready
        self.register_outputs(
            {
                "endpoint": self.endpoint,
                "region": self.region,
                "access_keys": self.access_keys,
                "secret_keys": self.secret_keys,
                "bucket_names": self.bucket_names,
                "ready": self.ready,
            }
        )

    def _minio(self, name: str, args: ObjectStoreArgs) -> _Store:
        child = pulumi.ResourceOptions(parent=self)
        metadata = _metadata(name, args, Component.OBJECT_STORE)
        keys = self._keys(name, args)
        root = self._root(name, args)
        server = self._server(name, args, minio.spec)
        files = minio.setup_files(args["buckets"], args["consumers"])
        config = kubernetes.core.v1.ConfigMap(
            f"{name}-setup", metadata=metadata(f"{name}-setup"), data=files, opts=child
        )
        secret = kubernetes.core.v1.Secret(
            f"{name}-keys", metadata=metadata(f"{name}-keys"), type="Opaque", string_data=keys, opts=child
        )
        job = self._setup(name, args, minio.setup, files, [server, config, secret, root])
        return self._inside(name, args, keys, job)

    def _seaweedfs(self, name: str, args: ObjectStoreArgs) -> _Store:
        child = pulumi.ResourceOptions(parent=self)
        metadata = _metadata(name, args, Component.OBJECT_STORE)
        keys = self._keys(name, args)
        admin = password(f"{name}-root", args.get("root_generation", 1), self)
        signing = password(f"{name}-signing", 1, self)
        identities = pulumi.Output.all(pulumi.Output.all(**keys), admin).apply(
            lambda found: object_rights.seaweedfs_identities(args["consumers"], found[0], ROOT, found[1])
        )
        secret = kubernetes.core.v1.Secret(
            f"{name}-root",
            metadata=metadata(f"{name}-root"),
            type="Opaque",
            string_data={
                "user": pulumi.Output.from_input(ROOT),
                "password": admin,
                "identities.json": pulumi.Output.secret(identities),
                "signing-key": signing,
            },
            opts=child,
        )
        server = self._server(name, args, seaweedfs.spec, secret)
        files = seaweedfs.setup_files(args["buckets"])
        config = kubernetes.core.v1.ConfigMap(
            f"{name}-setup", metadata=metadata(f"{name}-setup"), data=files, opts=child
        )
        job = self._setup(name, args, seaweedfs.setup, files, [server, config])
        return self._inside(name, args, keys, job)

    def _inside(
        self, name: str, args: ObjectStoreArgs, keys: Mapping[str, pulumi.Output[str]], job: kubernetes.batch.v1.Job
    ) -> _Store:
        """A store inside of the cluster, whose keys are known when the setup is done."""
        return _Store(
            endpoint=pulumi.Output.format(
                "{0}://{1}", object_args.scheme(args), object_args.address(name, args["namespace"])
            ),
            region=_S3_REGION,
            access_keys=after({consumer: consumer for consumer in keys}, job),
            secret_keys=after(pulumi.Output.all(**keys), job),
            bucket_names=pulumi.Output.from_input({bucket["name"]: bucket["name"] for bucket in args["buckets"]}),
            ready=job.metadata.apply(lambda made: made.name or ""),
        )

    def _keys(self, name: str, args: ObjectStoreArgs) -> dict[str, pulumi.Output[str]]:
        """Secret key by consumer."""
        generations = object_args.generations(args)
        return {
            consumer: password(f"{name}-key-{consumer}", generation, self)
            for consumer, generation in generations.items()
        }

    def _root(self, name: str, args: ObjectStoreArgs) -> kubernetes.core.v1.Secret:
        return kubernetes.core.v1.Secret(
            f"{name}-root",
            metadata=_metadata(name, args, Component.OBJECT_STORE)(f"{name}-root"),
            type="Opaque",
            string_data={
                "user": pulumi.Output.from_input(ROOT),
                "password": password(f"{name}-root", args.get("root_generation", 1), self),
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _server(
        self, name: str, args: ObjectStoreArgs, render: _Render, *needs: pulumi.Resource
    ) -> kubernetes.apps.v1.StatefulSet:
        """Service, peers' Service, volumes and StatefulSet."""
        child = pulumi.ResourceOptions(parent=self)
        metadata = _metadata(name, args, Component.OBJECT_STORE)
        labels = labels_for(name, Component.OBJECT_STORE, args.get("labels"))
        account = service_account(name, metadata(name), self)
        for service, spec in object_server.services(name).items():
            kubernetes.core.v1.Service(
                service, metadata=metadata(service, _SKIP_AWAIT), spec=pods.typed(spec), opts=child
            )
        protect = args.get("protect", False)
        claims = [
            kubernetes.core.v1.PersistentVolumeClaim(
                f"{name}-data-{index}",
                # One that waits for its first pod would be waited for in vain.
                metadata=metadata(f"data-{name}-{index}", _SKIP_AWAIT),
                spec=pods.typed(object_server.claim_spec(args)),
                opts=pulumi.ResourceOptions(parent=self, protect=protect, retain_on_delete=protect),
            )
            for index in range(object_args.replicas(args))
        ]
        if object_args.replicas(args) > 1:
            kubernetes.policy.v1.PodDisruptionBudget(
                name,
                metadata=metadata(name),
                spec=pods.typed(
                    {
                        "maxUnavailable": 1,
                        "selector": {"matchLabels": selector_for(name, Component.OBJECT_STORE)},
                    }
                ),
                opts=child,
            )
        return kubernetes.apps.v1.StatefulSet(
            name,
            metadata=metadata(name),
            spec=pods.typed(render(name, args, labels, account)),
            # A template of claims cannot be changed; the claims themselves can, and they are above.
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[*claims, *needs], ignore_changes=["spec.volumeClaimTemplates"]
            ),
        )

    def _setup(
        self,
        name: str,
        args: ObjectStoreArgs,
        render: _Render,
        files: Mapping[str, str],
        needs: Sequence[pulumi.Resource],
    ) -> kubernetes.batch.v1.Job:
        """A Job that is another one when its files, a key's generation or an image changes."""
        metadata = _metadata(name, args, Component.OBJECT_STORE_SETUP)
        labels = labels_for(name, Component.OBJECT_STORE_SETUP, args.get("labels"))
        account = service_account(f"{name}-setup", metadata(f"{name}-setup"), self)
        template = render(name, args, labels, account)
        generations = (object_args.generations(args), int(args.get("root_generation", 1)))
        mark = fingerprint(dict(files), generations, object_args.scheme(args), Image.MINIO_CLIENT)
        return kubernetes.batch.v1.Job(
            f"{name}-setup",
            metadata=metadata(f"{name}-setup-{mark}"),
            spec=pods.typed(job_spec(template)),
            opts=pulumi.ResourceOptions(parent=self, depends_on=needs),
        )

    def _gcs(self, name: str, args: ObjectStoreArgs) -> _Store:
        wanted = args.get("gcs")
        assert wanted is not None
        child = pulumi.ResourceOptions(parent=self)
        protect = args.get("protect", False)
        real = {
            bucket["name"]: f"{wanted.get('bucket_prefix', wanted['project'])}-{bucket['name']}"
            for bucket in args["buckets"]
        }
        buckets = {
            bucket["name"]: gcp.storage.Bucket(
                f"{name}-{bucket['name']}",
                name=real[bucket["name"]],
                project=wanted["project"],
                location=wanted["location"],
                storage_class=wanted.get("storage_class", "STANDARD"),
                force_destroy=wanted.get("force_destroy", False),
                uniform_bucket_level_access=True,
                public_access_prevention="enforced",
                versioning={"enabled": bucket.get("versioning", False)},
                lifecycle_rules=pods.typed({"rules": object_rights.gcs_lifecycle(bucket)})["rules"],
                soft_delete_policy={"retention_duration_seconds": _SOFT_DELETE_SECONDS},
                labels=gcp_labels(args.get("labels", {})),
                opts=pulumi.ResourceOptions(parent=self, protect=protect, retain_on_delete=protect),
            )
            for bucket in args["buckets"]
        }
        access: dict[str, pulumi.Output[str]] = {}
        secret: dict[str, pulumi.Output[str]] = {}
        rights: list[pulumi.CustomResource] = []
        for consumer in args["consumers"]:
            person = f"{name}-{consumer['name']}"
            account = gcp.serviceaccount.Account(
                person,
                project=wanted["project"],
                account_id=person,
                display_name=f"Object store: {consumer['name']}",
                opts=child,
            )
            # A new generation is a new resource: Google's keys cannot be replaced in place.
            key = gcp.storage.HmacKey(
                f"{person}-key-{object_args.generations(args)[consumer['name']]}",
                project=wanted["project"],
                service_account_email=account.email,
                opts=child,
            )
            access[consumer["name"]] = key.access_id
            secret[consumer["name"]] = pulumi.Output.secret(key.secret)
            for bucket, prefix, role in gcs_roles(consumer):
                expression = object_rights.gcs_condition(real[bucket], prefix)
                title = f"{role.rsplit('.', 1)[-1]}-{prefix.rstrip('/') or 'all'}".replace("/", "-")
                rights.append(
                    gcp.storage.BucketIAMMember(
                        f"{person}-{bucket}-{title}",
                        bucket=buckets[bucket].name,
                        role=role,
                        member=pulumi.Output.concat("serviceAccount:", account.email),
                        condition={"title": title, "expression": expression} if expression else None,
                        opts=child,
                    )
                )
        return _Store(
            endpoint=pulumi.Output.from_input(_GCS_ENDPOINT),
            region="auto",
            access_keys=after(pulumi.Output.all(**access), *rights),
            secret_keys=after(pulumi.Output.all(**secret), *rights),
            bucket_names=pulumi.Output.all(**{bucket: made.name for bucket, made in buckets.items()}),
            ready=after(_GCS_ENDPOINT, *rights),
        )


def gcs_roles(consumer: Consumer) -> list[tuple[str, str, str]]:
    """Bucket, prefix and role for each of a consumer's rights."""
    return [
        (grant["bucket"], prefix, role)
        for grant in consumer["grants"]
        for role, prefixes in (
            ("roles/storage.objectViewer", grant["read"]),
            ("roles/storage.objectUser", grant["write"]),
        )
        for prefix in prefixes
    ]


def _metadata(name: str, args: ObjectStoreArgs, component: Component) -> Callable[..., Any]:
    labels = labels_for(name, component, args.get("labels"))

    def metadata(object_name: str, annotations: Mapping[str, str] | None = None) -> Any:
        noted = {"annotations": dict(annotations)} if annotations else {}
        return {"name": object_name, "namespace": args["namespace"], "labels": labels, **noted}

    return metadata
