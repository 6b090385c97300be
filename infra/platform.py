"""What every model shares: namespaces, object store, database, MLflow, operators, gateway, monitoring."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes
import pulumi_random as random

from components import ports
from components.charts import CertManager, Keda
from components.gateway import DISCOVERY, Gateway, GatewayArgs, IssuerKind
from components.kuberay import KubeRayOperator
from components.labels import MANAGED_BY, PART_OF
from components.mlflow import MlflowServer, MlflowServerArgs
from components.monitoring import Monitoring, MonitoringArgs
from components.namespace import SecureNamespace, SecureNamespaceArgs
from components.object_store import Consumer, ObjectStore, ObjectStoreArgs, ObjectStoreEngine
from components.postgres import Postgres, PostgresArgs, PostgresEngine
from infra import network
from infra.cluster import Cluster
from infra.connections import (
    DIRECTORY,
    ConnectionSecret,
    Endpoints,
    People,
    allow,
    document,
    everybody,
    grants,
    groups_of,
    tracking,
)
from infra.network import Namespace
from infra.settings import CALLER, ROLES, GcpSettings, Settings, Sized, port_of

BUCKET = "modelport"
ARTIFACTS = "mlflow"
BACKUPS = "backups"
_STORE, _MLFLOW, _GATEWAY = "object-store", "mlflow", "gateway"
"""Names of components, and so of their Services."""
_TRAINING_QUOTA = {"count/jobs.batch": "5000", "pods": "1000"}
"""A loop that submits trainings stops there; Jobs of finished RayJobs count until those are deleted."""

CONSUMERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "reader": (("staging/", "releases/", "promotions/", "replicas/"), ()),
    "trainer": (("datasets/",), ("staging/", "checkpoints/", "trained/")),
    "promoter": (("staging/", "replicas/"), ("uploads/", "datasets/", "heldout/", "releases/", "promotions/")),
    "server": (("releases/", "promotions/"), ("replicas/", "records/")),
}
"""Prefixes of the platform's bucket that each identity reads, and reads and writes: the same as on a laptop, where
nobody is a `reader`."""


@dataclass(frozen=True)
class Platform:
    """What workloads and exports need of it."""

    training: pulumi.Output[str]
    """Namespace."""
    serving: pulumi.Output[str]
    """Namespace."""
    trainer_connection: pulumi.Output[str]
    """Secret in the namespace of training."""
    agent_connection: pulumi.Output[str]
    """Secret in the namespace of serving."""
    server_connection: pulumi.Output[str]
    """Secret in the namespace of serving with what gateway and load tests may know."""
    admin_key: pulumi.Output[str]
    """Secret in the namespace of serving with the key of Triton's restricted endpoints."""
    gateway: Gateway
    endpoints: Endpoints
    monitoring: Monitoring | None
    monitored: pulumi.Output[str] | None
    """Namespace of monitoring, known when its definitions are there; None without monitoring."""
    scaled: pulumi.Output[str]
    """Namespace of serving, known when KEDA's definitions are there."""


def build(settings: Settings, gcp: GcpSettings | None, cluster: Cluster, labels: Mapping[str, str]) -> Platform:
    """The platform of a stack."""
    return _Builder(settings, gcp, cluster, dict(labels)).build()


class _Builder:
    """Builds the parts in order; each method makes one."""

    def __init__(self, settings: Settings, gcp: GcpSettings | None, cluster: Cluster, labels: dict[str, str]) -> None:
        self.settings, self.gcp, self.cluster, self.labels = settings, gcp, cluster, labels
        assert settings.image is not None
        self.image = settings.image
        self.opts = pulumi.ResourceOptions(providers=[cluster.provider])

    def build(self) -> Platform:
        """Everything, in the order in which it depends on one another."""
        settings = self.settings
        registry, training, serving, operators = (
            self._namespace(name)
            for name in (Namespace.REGISTRY, Namespace.TRAINING, Namespace.SERVING, Namespace.OPERATORS)
        )
        trainings = training
        store = self._store(registry)
        database = self._database(registry, store)
        mlflow = self._mlflow(registry, store, database)
        endpoints = Endpoints(
            s3_endpoint=store.endpoint,
            s3_region=store.region,
            bucket=self._bucket(BUCKET),
            access_keys=store.access_keys,
            secret_keys=store.secret_keys,
            tracking_url=mlflow.url,
            tracking_users=mlflow.passwords,
        )
        if settings.operators.kuberay:
            kuberay = KubeRayOperator(
                "kuberay",
                {"namespace": operators, "watch_namespaces": [Namespace.TRAINING.value], "labels": self.labels},
                self.opts,
            )
            # Nothing is submitted before there is somebody to run it.
            trainings = _after(training, kuberay.ready)
        entry = serving
        if settings.operators.cert_manager:
            certificates = CertManager("cert-manager", {"namespace": operators, "labels": self.labels}, self.opts)
            entry = _after(serving, certificates.release)
        monitoring, monitored = None, None
        if settings.monitoring.enabled:
            monitored = self._namespace(Namespace.MONITORING)
            monitoring = self._monitoring(monitored)
            monitored = _after(monitored, monitoring.ready)
        scaled = serving
        if settings.operators.keda and monitoring is not None:
            keda = Keda("keda", {"namespace": operators, "labels": self.labels}, self.opts)
            scaled = _after(serving, keda.release)
        admin_key, admin_secret = self._admin_key(serving)
        trainer = document(endpoints, "trainer", **tracking(endpoints, "trainer"))
        promoter = document(endpoints, "promoter", **tracking(endpoints, "promoter"))
        reader = document(endpoints, "reader", **tracking(endpoints, "reader"))
        agent = document(
            endpoints,
            "server",
            triton_http=f"127.0.0.1:{ports.TRITON_HTTP}",
            triton_grpc=f"127.0.0.1:{ports.TRITON_GRPC}",
            triton_admin_key=admin_key,
        )
        replicas = f"{DISCOVERY}.{Namespace.SERVING}.svc.cluster.local"
        gateway_document = document(
            endpoints,
            "server",
            triton_grpc=f"{replicas}:{ports.TRITON_GRPC}",
            agent_urls=[f"http://{replicas}:{ports.AGENT}"],
        )
        trainer_connection = self._connection("connection-trainer", training, trainer, ("trainer", "mlflow"), "trainer")
        promoter_connection = self._connection(
            "connection-promoter", registry, promoter, ("promoter", "mlflow"), "promoter"
        )
        reader_connection = self._connection("connection-reader", registry, reader, ("reader", "mlflow"), *ROLES)
        agent_connection = self._connection("connection-agent", serving, agent, ("server", "triton"))
        gateway_connection = self._connection("connection-gateway", serving, gateway_document, ("server",))
        gateway = self._gateway(entry, gateway_connection)
        connections = {
            "reader": reader_connection,
            "trainer": trainer_connection,
            "promoter": promoter_connection,
        }
        self._directory(registry, endpoints, gateway, connections)
        self._people(
            gateway,
            {Namespace.REGISTRY: registry, Namespace.TRAINING: training, Namespace.SERVING: serving},
        )
        return Platform(
            training=trainings,
            serving=serving,
            trainer_connection=trainer_connection,
            agent_connection=agent_connection,
            server_connection=gateway_connection,
            admin_key=admin_secret,
            gateway=gateway,
            endpoints=endpoints,
            monitoring=monitoring,
            monitored=monitored,
            scaled=scaled,
        )

    def _namespace(self, namespace: Namespace) -> pulumi.Output[str]:
        settings = self.settings
        args: SecureNamespaceArgs = {
            "namespace": namespace.value,
            "rules": network.rules(flows(settings), namespace),
            # Deleting a namespace deletes the claims in it, whatever protects them.
            "protect": settings.protect and namespace in (Namespace.REGISTRY, Namespace.SERVING),
            "labels": self.labels,
        }
        if namespace is Namespace.TRAINING:
            args["quota"] = _TRAINING_QUOTA
        made = SecureNamespace(namespace.value.removeprefix("modelport-"), args, self.opts)
        return made.namespace

    def _store(self, namespace: pulumi.Output[str]) -> ObjectStore:
        store, rotation = self.settings.store, self.settings.rotation
        consumers: list[Consumer] = [
            {"name": name, "grants": [{"bucket": BUCKET, "read": list(read), "write": list(write)}]}
            for name, (read, write) in CONSUMERS.items()
        ]
        consumers.append({"name": "mlflow", "grants": [{"bucket": ARTIFACTS, "read": [], "write": [""]}]})
        consumers.append({"name": "backup", "grants": [{"bucket": BACKUPS, "read": [], "write": [""]}]})
        args: ObjectStoreArgs = {
            "namespace": namespace,
            "engine": store.engine,
            "size": store.size,
            "replicas": store.replicas,
            "buckets": [
                {
                    "name": BUCKET,
                    "versioning": True,
                    # A checkpoint is deleted after the next one, and a heartbeat replaced twice a minute: kept for a
                    # month they would fill the store.
                    "unversioned": ["checkpoints/", "replicas/"],
                    "expire": [
                        {"prefix": "staging/", "days": store.staging_days},
                        {"prefix": "checkpoints/", "days": store.staging_days},
                    ],
                },
                {"name": ARTIFACTS},
                # The backup itself removes old dumps, and never the newest.
                {"name": BACKUPS},
            ],
            "consumers": consumers,
            "key_generations": {
                **{name: rotation.get(name, 1) for name in CONSUMERS},
                "mlflow": rotation.get("mlflow", 1),
                "backup": rotation.get("postgres", 1),
            },
            "tool_image": self.image,
            "protect": self.settings.protect,
            "labels": self.labels,
        }
        if said := asked(store):
            args["resources"] = said
        if store.storage_class:
            args["storage_class"] = store.storage_class
        if store.engine is ObjectStoreEngine.GCS:
            assert self.gcp is not None
            args["gcs"] = {
                "project": self.gcp.project,
                "location": self.gcp.region,
                "bucket_prefix": self.gcp.project,
            }
        return ObjectStore(_STORE, args, self.opts)

    def _bucket(self, name: str) -> str:
        """Real name of a bucket: all of Google's customers share one room of names."""
        if self.settings.store.engine is not ObjectStoreEngine.GCS:
            return name
        assert self.gcp is not None
        return f"{self.gcp.project}-{name}"

    def _database(self, namespace: pulumi.Output[str], store: ObjectStore) -> Postgres:
        database = self.settings.database
        args: PostgresArgs = {
            "namespace": namespace,
            "engine": database.engine,
            "database": "mlflow",
            "user": "mlflow",
            "size": database.size,
            "password_generation": self.settings.rotation.get("postgres", 1),
            "protect": self.settings.protect,
            "labels": self.labels,
        }
        if said := asked(database):
            args["resources"] = said
        if database.storage_class:
            args["storage_class"] = database.storage_class
        if database.engine is PostgresEngine.CLOUD_SQL:
            assert self.gcp is not None
            assert self.cluster.network is not None
            args["cloud_sql"] = {
                "project": self.gcp.project,
                "region": self.gcp.region,
                "network": self.cluster.network,
                "tier": database.tier,
                "high_availability": database.high_availability,
                "deletion_protection": self.settings.protect,
            }
        elif database.backup_schedule:
            args["backup"] = {
                "schedule": database.backup_schedule,
                "endpoint": store.endpoint,
                "region": store.region,
                "bucket": self._bucket(BACKUPS),
                "prefix": "mlflow/",
                "keep_days": database.backup_days,
                "access_key": store.access_keys.apply(lambda keys: keys["backup"]),
                "secret_key": store.secret_keys.apply(lambda keys: keys["backup"]),
                "image": self.image,
            }
        return Postgres("postgres", args, self.opts)

    def _mlflow(self, namespace: pulumi.Output[str], store: ObjectStore, database: Postgres) -> MlflowServer:
        args: MlflowServerArgs = {
            "namespace": namespace,
            "image": self.image,
            "replicas": self.settings.tracking.replicas,
            "database": {
                "host": database.host,
                "port": database.port,
                "name": database.database,
                "user": database.user,
                "password": database.password,
            },
            "artifacts": {
                "endpoint": store.endpoint,
                "region": store.region,
                "bucket": self._bucket(ARTIFACTS),
                "access_key": store.access_keys.apply(lambda keys: keys["mlflow"]),
                "secret_key": store.secret_keys.apply(lambda keys: keys["mlflow"]),
            },
            "users": ["reader", "trainer", "promoter"],
            # The promoter mirrors its decisions onto the trainer's runs and versions. Whoever made these may change
            # them, and what is mirrored there: nothing that is served is decided by it.
            "grants": {"promoter": {"experiment": "EDIT", "registered_model": "MANAGE"}},
            "password_generation": self.settings.rotation.get("mlflow", 1),
            "labels": self.labels,
        }
        if said := asked(self.settings.tracking):
            args["resources"] = said
        return MlflowServer("mlflow", args, self.opts)

    def _monitoring(self, namespace: pulumi.Output[str]) -> Monitoring:
        monitoring = self.settings.monitoring
        args: MonitoringArgs = {
            "namespace": namespace,
            "owner": self.settings.owner,
            "retention_days": monitoring.retention_days,
            "storage": monitoring.size,
            "target_namespaces": [Namespace.REGISTRY.value, Namespace.TRAINING.value, Namespace.SERVING.value],
            "labels": self.labels,
        }
        if monitoring.receivers:
            # Whoever knows the address can write to where it leads.
            args["receivers"] = {
                owner: pulumi.Output.secret(address.get_secret_value())
                for owner, address in monitoring.receivers.items()
            }
        if monitoring.runbooks:
            args["runbooks"] = monitoring.runbooks
        return Monitoring("monitoring", args, self.opts)

    def _admin_key(self, namespace: pulumi.Output[str]) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        generation = self.settings.rotation.get("triton", 1)
        key = random.RandomPassword(
            "triton-admin", length=40, special=False, keepers={"generation": str(generation)}
        ).result
        secret = kubernetes.core.v1.Secret(
            "triton-admin",
            metadata={
                "name": f"triton-admin-{generation}",
                "namespace": namespace,
                "labels": {**self.labels, PART_OF: "modelport", MANAGED_BY: "pulumi"},
            },
            string_data={"admin-key": key},
            opts=pulumi.ResourceOptions(provider=self.cluster.provider),
        )
        return key, secret.metadata.apply(lambda made: made.name or "")

    def _connection(
        self,
        name: str,
        namespace: pulumi.Output[str],
        content: pulumi.Output[str],
        credentials: tuple[str, ...],
        *readers: str,
    ) -> pulumi.Output[str]:
        """A Secret, which those read who have one of the roles `readers`."""
        rotation, access = self.settings.rotation, self.settings.access
        generation = "-".join(str(rotation.get(credential, 1)) for credential in credentials)
        groups = groups_of(access, *readers)
        return ConnectionSecret(name, namespace, content, generation, groups, self.labels, self.opts).secret

    def _gateway(self, namespace: pulumi.Output[str], connection: pulumi.Output[str]) -> Gateway:
        gateway = self.settings.gateway
        args: GatewayArgs = {
            "namespace": namespace,
            "image": self.image,
            "connection_secret": connection,
            "replicas": gateway.replicas,
            "callers": list(gateway.callers),
            "key_generations": key_generations(gateway.callers, self.settings.rotation),
            "labels": self.labels,
        }
        if said := asked(gateway):
            args["resources"] = said
        if gateway.hostname and gateway.gateway_class and gateway.issuer:
            args["hostname"] = gateway.hostname
            args["gateway_class"] = gateway.gateway_class
            args["tls"] = {"issuer_kind": IssuerKind.CLUSTER_ISSUER, "issuer_name": gateway.issuer}
        return Gateway(_GATEWAY, args, self.opts)

    def _directory(
        self,
        namespace: pulumi.Output[str],
        endpoints: Endpoints,
        gateway: Gateway,
        connections: Mapping[str, pulumi.Output[str]],
    ) -> None:
        """Where things are, and which Secret holds which role: what `modelport connect` reads first. Nothing secret."""
        places = {"reader": Namespace.REGISTRY, "trainer": Namespace.TRAINING, "promoter": Namespace.REGISTRY}
        callers = {caller: _of(gateway.api_key_secrets, caller) for caller in self.settings.gateway.callers}

        def metadata(object_name: str) -> kubernetes.meta.v1.ObjectMetaArgsDict:
            labels = {**self.labels, PART_OF: "modelport", MANAGED_BY: "pulumi"}
            return {"name": object_name, "namespace": namespace, "labels": labels}

        opts = pulumi.ResourceOptions(provider=self.cluster.provider)
        kubernetes.core.v1.ConfigMap(
            "directory",
            metadata=metadata(DIRECTORY),
            data={
                "s3_endpoint": endpoints.s3_endpoint,
                "tracking_uri": endpoints.tracking_url,
                "gateway_url": gateway.url,
                **{role: pulumi.Output.format("{0}/{1}", places[role], name) for role, name in connections.items()},
                **{
                    f"caller.{caller}": pulumi.Output.format("{0}/{1}", Namespace.SERVING.value, name)
                    for caller, name in callers.items()
                },
            },
            opts=opts,
        )
        if readers := everybody(self.settings.access):
            rules: list[kubernetes.rbac.v1.PolicyRuleArgsDict] = [
                {"api_groups": [""], "resources": ["configmaps"], "resource_names": [DIRECTORY], "verbs": ["get"]}
            ]
            allow("directory-reader", metadata(f"{DIRECTORY}-reader"), readers, rules, opts)

    def _people(self, gateway: Gateway, namespaces: Mapping[Namespace, pulumi.Output[str]]) -> None:
        """What people may do, by the groups that the stack says they are in."""
        settings = self.settings
        given = grants(
            settings.access,
            services=(_STORE, _MLFLOW),
            gateway=_GATEWAY,
            gateway_replicas=settings.gateway.replicas,
            key_secrets={caller: _of(gateway.api_key_secrets, caller) for caller in settings.gateway.callers},
        )
        if given:
            People("people", given, namespaces, self.labels, self.opts)


def flows(settings: Settings) -> list[network.Flow]:
    """Who may talk to whom in a stack. Pure."""
    public = bool(settings.gateway.hostname)
    certificates, on_gke = settings.operators.cert_manager, settings.cluster.kind == "gke"
    told = settings.monitoring.receivers.values() if settings.monitoring.enabled else ()
    return network.matrix(
        settings.api_server_cidrs,
        public=(settings.gateway.sources or network.GOOGLE_LOAD_BALANCERS) if public else (),
        database=network.PRIVATE if settings.database.engine is PostgresEngine.CLOUD_SQL else (),
        objects=network.GOOGLE_APIS if settings.store.engine is ObjectStoreEngine.GCS else (),
        receivers=sorted({port_of(address.get_secret_value()) for address in told}),
        certificates=network.INTERNET if certificates else (),
        metadata=network.GOOGLE_METADATA if certificates and on_gke else (),
    )


def key_generations(callers: Iterable[str], rotation: Mapping[str, int]) -> dict[str, int]:
    """Generation of each caller's key: another one when everybody's number is raised, or the caller's own. Pure."""
    return {caller: rotation.get("gateway", 1) + rotation.get(f"{CALLER}{caller}", 1) - 1 for caller in callers}


def _of(names: pulumi.Output[dict[str, str]], key: str) -> pulumi.Output[str]:
    return names.apply(lambda known: known[key])


class Asked(TypedDict):
    """What the pods of a part ask for; what is left away is the component's default."""

    cpu: NotRequired[float]
    memory: NotRequired[str]


def asked(part: Sized) -> Asked:
    """What a stack says that the pods of a part ask for. Pure."""
    said: Asked = {}
    if part.cpus is not None:
        said["cpu"] = part.cpus
    if part.memory is not None:
        said["memory"] = part.memory
    return said


def _after(value: pulumi.Output[str], *others: pulumi.Output[str]) -> pulumi.Output[str]:
    """The same value, once what the others come from is there too."""
    return pulumi.Output.all(value, *others).apply(lambda values: values[0])
