"""PostgreSQL with one database and one role: in the cluster, with dumps to an object store, or as Cloud SQL."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_gcp as gcp
import pulumi_kubernetes as kubernetes

from components import pods, ports
from components.jobs import GENERATION, after, fingerprint, job_spec, service_account
from components.labels import Component, labels_for, selector_for
from components.node_pools import gcp_labels
from components.passwords import password
from components.pods import Container, Manifest, Mount, Resources
from components.versions import Image, reference

POSTGRES_USER = 999
"""User of PostgreSQL's processes: it must be one that the image knows, and is `postgres` in the official one."""

_SCRIPTS = Path(__file__).with_name("scripts")
_WAIT = "postgres_wait.sh"
_SETUP_FILES = {"setup.sh": "postgres_setup.sh", "setup.sql": "postgres_setup.sql", _WAIT: _WAIT}
_BACKUP_FILES = {"dump.sh": "postgres_dump.sh", "backup.py": "postgres_backup.py", _WAIT: _WAIT}
_DUMP = "/dump/database.dump"
_VOLUME = "/var/lib/postgresql/data"
_PGDATA = f"{_VOLUME}/pgdata"
_CONFIG = "/etc/postgres"
_ADMIN = "/etc/postgres-admin"
_CLOUD_SQL_VERSION = "POSTGRES_17"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_HBA = """\
# Everybody gives a password, on every way in.
local all all scram-sha-256
host all all all scram-sha-256
"""


class PostgresEngine(StrEnum):
    """Where PostgreSQL runs."""

    IN_CLUSTER = "in-cluster"
    CLOUD_SQL = "cloud-sql"


class PostgresBackup(TypedDict):
    """Dumps of the database to an object store."""

    schedule: str
    """When, in cron's five fields, UTC."""
    endpoint: pulumi.Input[str]
    """URL of the S3 API."""
    region: pulumi.Input[str]
    """Region that requests are signed for."""
    bucket: pulumi.Input[str]
    """Bucket."""
    prefix: str
    """Beginning of the dumps' names, such as ``mlflow/``."""
    access_key: pulumi.Input[str]
    """Access key that may list, read, write and delete there."""
    secret_key: pulumi.Input[str]
    """Its secret."""
    keep_days: NotRequired[int]
    """Days that a dump is kept; the newest always is [default: 14]."""
    image: pulumi.Input[str]
    """An image with Python and boto3."""
    scratch_size: NotRequired[str]
    """Local disk for a dump on its way, a Kubernetes quantity [default: 2Gi]."""


RESOURCES = Resources(0.25, "1Gi")
"""Where `PostgresResources` says nothing."""


class PostgresResources(TypedDict):
    """What the server asks for."""

    cpu: NotRequired[float]
    """Processor cores [default: 0.25]."""
    memory: NotRequired[str]
    """Kubernetes quantity [default: 1Gi]."""


class CloudSql(TypedDict):
    """The instance of Cloud SQL."""

    project: str
    """Project."""
    region: str
    """Region."""
    network: pulumi.Input[str]
    """Network (its id or self link) that it gets a private address in, and no public one."""
    tier: NotRequired[str]
    """Machine type [default: db-custom-1-3840]."""
    high_availability: NotRequired[bool]
    """A standby in another zone [default: false]."""
    deletion_protection: NotRequired[bool]
    """Google and Pulumi refuse to delete it [default: true]."""
    disk_gigabytes: NotRequired[int]
    """Disk at the start; it grows by itself, and never shrinks again [default: Google's, 10]."""
    backup_start: NotRequired[str]
    """Time of the daily backup, UTC [default: 03:00]."""
    backups_kept: NotRequired[int]
    """Daily backups that are kept [default: 14]."""
    log_days: NotRequired[int]
    """Days back to any second of which the database can be recovered, 1 to 7 [default: 7]."""
    address_prefix_length: NotRequired[int]
    """Size of the range of private addresses for Google's services [default: 20]."""


class PostgresArgs(TypedDict):
    """Arguments of `Postgres`."""

    namespace: pulumi.Input[str]
    """Namespace; with Cloud SQL nothing is in it."""
    engine: PostgresEngine
    """Where it runs."""
    database: str
    """Name of the database."""
    user: str
    """Role that owns it, and nothing else."""
    size: NotRequired[str]
    """In-cluster: size of the volume, a Kubernetes quantity; it may grow later [default: 10Gi]."""
    storage_class: NotRequired[str]
    """In-cluster: storage class of the volume [default: the cluster's]."""
    password_generation: NotRequired[int]
    """Another number gives the role another password, on the server too [default: 1]."""
    admin_generation: NotRequired[int]
    """In-cluster: another number restarts the server with another password of its administrator [default: 1]."""
    protect: NotRequired[bool]
    """In-cluster: refuse to delete the volume, and keep it when that is forced [default: false]."""
    backup: NotRequired[PostgresBackup]
    """In-cluster: dumps to an object store. Cloud SQL has its own."""
    resources: NotRequired[PostgresResources]
    """In-cluster: what the server asks for."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object."""
    cloud_sql: NotRequired[CloudSql]
    """The instance, for the engine `cloud-sql`."""


class Postgres(pulumi.ComponentResource):
    """One database and the role that owns it.

    In the cluster: a StatefulSet of one, whose passwords are scram-sha-256 and whose pages have checksums. A Job makes
    the role and the database, and runs again when the role's generation changes: a password is a statement, not an
    environment variable. The administrator's password is set before the server starts, so that changing it needs no
    old one. If a Job failed for good, delete it (``kubectl delete job``) and run ``pulumi up --refresh``.

    The engine `cloud-sql` was never run against Google Cloud.
    """

    host: pulumi.Output[str]
    """Host name or address."""
    port: pulumi.Output[int]
    """Port."""
    database: pulumi.Output[str]
    """Name of the database."""
    user: pulumi.Output[str]
    """Name of the role."""
    password: pulumi.Output[str]
    """Its password, known when the server takes it."""
    ready: pulumi.Output[str]
    """Known when role and database are there."""

    def __init__(self, name: str, args: PostgresArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelport:index:Postgres", name, {**args}, opts)
        check(args)
        app = password(f"{name}-app", args.get("password_generation", 1), self)
        engines = {PostgresEngine.IN_CLUSTER: self._in_cluster, PostgresEngine.CLOUD_SQL: self._cloud_sql}
        host, done = engines[PostgresEngine(args["engine"])](name, args, app)
        self.host = host
        self.port = pulumi.Output.from_input(ports.POSTGRES)
        self.database = pulumi.Output.from_input(args["database"])
        self.user = pulumi.Output.from_input(args["user"])
        self.password = pulumi.Output.secret(after(app, done))
        self.ready = after(args["database"], done)
        self.register_outputs(
            {
                "host": self.host,
                "port": self.port,
                "database": self.database,
                "user": self.user,
                "password": self.password,
                "ready": self.ready,
            }
        )

    def _in_cluster(
        self, name: str, args: PostgresArgs, app_password: pulumi.Output[str]
    ) -> tuple[pulumi.Output[str], pulumi.CustomResource]:
        labels = labels_for(name, Component.POSTGRES, args.get("labels"))
        child = pulumi.ResourceOptions(parent=self)
        namespace = args["namespace"]

        def metadata(object_name: str, **more: Any) -> Any:
            return {"name": object_name, "namespace": namespace, "labels": labels, **more}

        def secret(suffix: str, content: Mapping[str, pulumi.Input[str]]) -> kubernetes.core.v1.Secret:
            return kubernetes.core.v1.Secret(
                f"{name}-{suffix}",
                metadata=metadata(f"{name}-{suffix}"),
                type="Opaque",
                string_data=content,
                opts=child,
            )

        skip = {"pulumi.com/skipAwait": "true"}
        admin = secret("admin", {"password": password(f"{name}-admin", args.get("admin_generation", 1), self)})
        app = secret("app", {"password": app_password})
        start = (_SCRIPTS / "postgres_start.sh").read_text()
        config = kubernetes.core.v1.ConfigMap(
            f"{name}-config",
            metadata=metadata(f"{name}-config"),
            data={"pg_hba.conf": _HBA, "start.sh": start},
            opts=child,
        )
        for service, more in ((name, {"type": "ClusterIP"}), (f"{name}-peers", {"clusterIP": "None"})):
            kubernetes.core.v1.Service(
                service,
                metadata=metadata(service, annotations=skip),
                spec=pods.typed(service_spec(name, more)),
                opts=child,
            )
        protect = args.get("protect", False)
        claim = kubernetes.core.v1.PersistentVolumeClaim(
            f"{name}-data",
            # One that waits for its first pod would be waited for in vain.
            metadata=metadata(f"{name}-data", annotations=skip),
            spec=pods.typed(claim_spec(args)),
            opts=pulumi.ResourceOptions(parent=self, protect=protect, retain_on_delete=protect),
        )
        server = kubernetes.apps.v1.StatefulSet(
            name,
            metadata=metadata(name),
            spec=pods.typed(
                stateful_set_spec(name, args, labels, service_account(name, metadata(name), self), fingerprint(start))
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[admin, config, claim]),
        )
        job = self._setup(name, args, [server, app, admin])
        if "backup" in args:
            self._backup(name, args, args["backup"], job)
        return pulumi.Output.format("{0}.{1}.svc", name, namespace), job

    def _setup(self, name: str, args: PostgresArgs, needs: list[pulumi.Resource]) -> kubernetes.batch.v1.Job:
        """The Job that makes role and database; another one when what it does or the password changes."""
        labels = labels_for(name, Component.POSTGRES_SETUP, args.get("labels"))
        child = pulumi.ResourceOptions(parent=self)

        def metadata(object_name: str) -> Any:
            return {"name": object_name, "namespace": args["namespace"], "labels": labels}

        files = {key: (_SCRIPTS / file).read_text() for key, file in _SETUP_FILES.items()}
        config = kubernetes.core.v1.ConfigMap(
            f"{name}-setup", metadata=metadata(f"{name}-setup"), data=files, opts=child
        )
        account = service_account(f"{name}-setup", metadata(f"{name}-setup"), self)
        mark = fingerprint(files, args["database"], args["user"], int(args.get("password_generation", 1)))
        return kubernetes.batch.v1.Job(
            f"{name}-setup",
            metadata=metadata(f"{name}-setup-{mark}"),
            spec=pods.typed(job_spec(setup_template(name, args, labels, account))),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*needs, config]),
        )

    def _backup(self, name: str, args: PostgresArgs, backup: PostgresBackup, job: pulumi.Resource) -> None:
        labels = labels_for(name, Component.POSTGRES_BACKUP, args.get("labels"))
        child = pulumi.ResourceOptions(parent=self)
        metadata: Any = {"name": f"{name}-backup", "namespace": args["namespace"], "labels": labels}
        config = kubernetes.core.v1.ConfigMap(
            f"{name}-backup",
            metadata=metadata,
            data={key: (_SCRIPTS / file).read_text() for key, file in _BACKUP_FILES.items()},
            opts=child,
        )
        secret = kubernetes.core.v1.Secret(
            f"{name}-backup",
            metadata=metadata,
            type="Opaque",
            string_data={
                "access-key": backup["access_key"],
                "secret-key": pulumi.Output.secret(backup["secret_key"]),
            },
            opts=child,
        )
        account = service_account(f"{name}-backup", metadata, self)
        kubernetes.batch.v1.CronJob(
            f"{name}-backup",
            metadata=metadata,
            spec=pods.typed(backup_spec(name, args, backup, labels, account)),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[config, secret, job]),
        )

    def _cloud_sql(
        self, name: str, args: PostgresArgs, app_password: pulumi.Output[str]
    ) -> tuple[pulumi.Output[str], pulumi.CustomResource]:
        wanted = args.get("cloud_sql")
        assert wanted is not None
        child = pulumi.ResourceOptions(parent=self)
        protect = wanted.get("deletion_protection", True)
        addresses = gcp.compute.GlobalAddress(
            f"{name}-addresses",
            project=wanted["project"],
            purpose="VPC_PEERING",
            address_type="INTERNAL",
            prefix_length=int(wanted.get("address_prefix_length", 20)),
            network=wanted["network"],
            opts=child,
        )
        peering = gcp.servicenetworking.Connection(
            f"{name}-peering",
            network=wanted["network"],
            service="servicenetworking.googleapis.com",
            # Google holds on to it for days after the last instance; it goes with the network.
            deletion_policy="ABANDON",
            reserved_peering_ranges=[addresses.name],
            opts=child,
        )
        instance = gcp.sql.DatabaseInstance(
            name,
            project=wanted["project"],
            region=wanted["region"],
            database_version=_CLOUD_SQL_VERSION,
            deletion_protection=protect,
            settings=pods.typed(cloud_sql_settings(wanted, args.get("labels", {}))),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[peering],
                protect=protect,
                # Google enlarges it; back to what it began with would be another, empty instance.
                ignore_changes=["settings.diskSize"],
            ),
        )
        database = gcp.sql.Database(
            f"{name}-database",
            project=wanted["project"],
            instance=instance.name,
            name=args["database"],
            deletion_policy="ABANDON",
            opts=child,
        )
        user = gcp.sql.User(
            f"{name}-user",
            project=wanted["project"],
            instance=instance.name,
            name=args["user"],
            password=app_password,
            # A role that owns tables cannot be dropped; it goes with the instance.
            deletion_policy="ABANDON",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[database]),
        )
        return instance.private_ip_address, user


def check(args: PostgresArgs) -> None:
    """Refuse what an engine does not do, and names that would need quoting everywhere.

    Raises:
        ValueError: and which argument it is.
    """
    for argument, value in (("database", args["database"]), ("user", args["user"])):
        if not _NAME.fullmatch(value):
            raise ValueError(f"{argument}: {value!r} must be small letters, digits and underscores, at most 63")
        if value in ("postgres", "template0", "template1"):
            raise ValueError(f"{argument}: {value} is PostgreSQL's own")
    cloud = PostgresEngine(args["engine"]) is PostgresEngine.CLOUD_SQL
    if cloud != ("cloud_sql" in args):
        raise ValueError("cloud_sql: must be given with the engine cloud-sql, and with no other")
    if cloud and "backup" in args:
        raise ValueError("backup: is for the engine in-cluster; Cloud SQL keeps backups of its own")
    if "backup" in args and len(args["backup"]["schedule"].split()) != 5:
        raise ValueError(f"backup.schedule: {args['backup']['schedule']!r} does not have cron's five fields")
    if "backup" in args and not args["backup"]["prefix"].endswith("/"):
        raise ValueError(f"backup.prefix: {args['backup']['prefix']!r} must end with a slash")


def service_spec(name: str, more: Manifest) -> Manifest:
    """A Service's spec."""
    port = {"name": "postgres", "port": ports.POSTGRES, "targetPort": ports.POSTGRES, "protocol": "TCP"}
    return {**more, "selector": selector_for(name, Component.POSTGRES), "ports": [port]}


def claim_spec(args: PostgresArgs) -> Manifest:
    """The PersistentVolumeClaim's spec."""
    storage_class = {"storageClassName": args["storage_class"]} if "storage_class" in args else {}
    return {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": args.get("size", "10Gi")}},
        **storage_class,
    }


def stateful_set_spec(
    name: str, args: PostgresArgs, labels: Mapping[str, str], account: pulumi.Input[str], mark: str
) -> Manifest:
    """The server. `mark` stands for the scripts: others start it anew."""
    resources = pods.sized(args.get("resources", {}), RESOURCES)
    data = Mount("data", _VOLUME, {"persistentVolumeClaim": {"claimName": f"{name}-data"}})
    config = pods.config_volume("config", f"{name}-config", _CONFIG)
    start = Container(
        "start",
        reference(Image.POSTGRES),
        resources,
        command=["/bin/sh", f"{_CONFIG}/start.sh"],
        env=[
            pods.variable("PGDATA", _PGDATA),
            pods.variable("ADMIN_PASSWORD_FILE", f"{_ADMIN}/password"),
        ],
        mounts=[data, config, pods.scratch(), pods.secret_volume("admin", f"{name}-admin", _ADMIN)],
    )
    options = {
        "listen_addresses": "*",
        "port": str(ports.POSTGRES),
        "unix_socket_directories": "/tmp",  # noqa: S108
        "hba_file": f"{_CONFIG}/pg_hba.conf",
        "password_encryption": "scram-sha-256",
    }
    server = Container(
        "postgres",
        reference(Image.POSTGRES),
        resources,
        command=["postgres"],
        args=["-D", _PGDATA, *(part for key, value in options.items() for part in ("-c", f"{key}={value}"))],
        mounts=[data, config, pods.scratch(), pods.shared_memory("128Mi")],
        ports={"postgres": ports.POSTGRES},
        readiness=_ready(period=5, failures=3),
        liveness=_ready(period=10, failures=6),
        # Recovery after a crash answers "starting up" for as long as it takes.
        startup=_ready(period=5, failures=120),
        # The signal that Kubernetes sends would wait until every client has gone.
        pre_stop={"exec": {"command": ["pg_ctl", "stop", "-D", _PGDATA, "-m", "fast", "-t", "50"]}},
    )
    template = pods.pod_template(
        [server],
        labels=labels,
        service_account=account,
        init=[start],
        annotations={GENERATION: f"{int(args.get('admin_generation', 1))}-{mark}"},
        grace_seconds=60,
        user=POSTGRES_USER,
    )
    return {
        "replicas": 1,
        "serviceName": f"{name}-peers",
        "updateStrategy": {"type": "RollingUpdate"},
        "selector": {"matchLabels": selector_for(name, Component.POSTGRES)},
        "template": template,
    }


def setup_template(name: str, args: PostgresArgs, labels: Mapping[str, str], account: pulumi.Input[str]) -> Manifest:
    """Pod of the Job that makes role and database."""
    container = Container(
        "setup",
        reference(Image.POSTGRES),
        Resources(cpu=0.1, memory="128Mi"),
        command=["/bin/sh", "/setup/setup.sh"],
        env=[
            pods.variable("PGHOST", name),
            pods.variable("PGPORT", str(ports.POSTGRES)),
            pods.variable("PGUSER", "postgres"),
            pods.secret_variable("PGPASSWORD", f"{name}-admin", "password"),
            pods.variable("APP_DATABASE", args["database"]),
            pods.variable("APP_USER", args["user"]),
            pods.secret_variable("APP_PASSWORD", f"{name}-app", "password"),
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=[pods.scratch(), pods.config_volume("setup", f"{name}-setup", "/setup")],
    )
    return pods.pod_template([container], labels=labels, service_account=account, restart_policy="Never")


def backup_spec(
    name: str,
    args: PostgresArgs,
    backup: PostgresBackup,
    labels: Mapping[str, str],
    account: pulumi.Input[str],
) -> Manifest:
    """A CronJob: PostgreSQL's image dumps, as the role that owns the database; another image stores the dump."""
    size = backup.get("scratch_size", "2Gi")
    dump = pods.scratch("/dump", size, "dump")
    scripts = pods.config_volume("backup", f"{name}-backup", "/backup")
    dumping = Container(
        "dump",
        reference(Image.POSTGRES),
        Resources(cpu=0.1, memory="256Mi", storage=size),
        command=["/bin/sh", "/backup/dump.sh"],
        env=[
            pods.variable("DUMP", _DUMP),
            pods.variable("PGHOST", name),
            pods.variable("PGPORT", str(ports.POSTGRES)),
            pods.variable("PGDATABASE", args["database"]),
            pods.variable("PGUSER", args["user"]),
            pods.secret_variable("PGPASSWORD", f"{name}-app", "password"),
            pods.variable("PGCONNECT_TIMEOUT", "30"),
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=[dump, pods.scratch(), scripts],
    )
    storing = Container(
        "store",
        backup["image"],
        Resources(cpu=0.1, memory="512Mi", storage=size),
        command=["python", "-P", "/backup/backup.py"],
        env=[
            pods.variable("DUMP", _DUMP),
            pods.variable("S3_ENDPOINT", backup["endpoint"]),
            pods.variable("AWS_DEFAULT_REGION", backup["region"]),
            pods.secret_variable("AWS_ACCESS_KEY_ID", f"{name}-backup", "access-key"),
            pods.secret_variable("AWS_SECRET_ACCESS_KEY", f"{name}-backup", "secret-key"),
            pods.variable("BUCKET", backup["bucket"]),
            pods.variable("PREFIX", backup["prefix"]),
            pods.variable("KEEP_DAYS", str(int(backup.get("keep_days", 14)))),
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=[dump, pods.scratch(), scripts],
    )
    template = pods.pod_template(
        [storing], labels=labels, service_account=account, init=[dumping], restart_policy="Never"
    )
    return {
        "schedule": backup["schedule"],
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {
            "metadata": {"labels": dict(labels)},
            "spec": job_spec(template, deadline_seconds=3600, retries=2),
        },
    }


def cloud_sql_settings(wanted: CloudSql, labels: Mapping[str, str]) -> Manifest:
    """Settings of the instance, as `gcp.sql.DatabaseInstance` takes them."""
    return {
        "tier": wanted.get("tier", "db-custom-1-3840"),
        "edition": "ENTERPRISE",
        "availability_type": "REGIONAL" if wanted.get("high_availability", False) else "ZONAL",
        "deletion_protection_enabled": wanted.get("deletion_protection", True),
        **({"disk_size": int(wanted["disk_gigabytes"])} if "disk_gigabytes" in wanted else {}),
        "disk_autoresize": True,
        "disk_type": "PD_SSD",
        "ip_configuration": {
            "ipv4_enabled": False,
            "private_network": wanted["network"],
            "ssl_mode": "ENCRYPTED_ONLY",
        },
        "backup_configuration": {
            "enabled": True,
            "start_time": wanted.get("backup_start", "03:00"),
            "point_in_time_recovery_enabled": True,
            "transaction_log_retention_days": int(wanted.get("log_days", 7)),
            "backup_retention_settings": {
                "retained_backups": int(wanted.get("backups_kept", 14)),
                "retention_unit": "COUNT",
            },
        },
        "user_labels": gcp_labels(labels),
    }


def _ready(*, period: int, failures: int) -> Manifest:
    command = ["pg_isready", "--quiet", "--host=127.0.0.1", f"--port={ports.POSTGRES}"]
    return {
        "exec": {"command": command},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }
