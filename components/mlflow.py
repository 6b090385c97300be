"""MLflow's tracking server: its own users, artifacts through the server, runs in PostgreSQL."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict
from urllib.parse import quote

import pulumi
import pulumi_kubernetes as kubernetes

from components import pods, ports
from components.jobs import GENERATION, after, fingerprint, job_spec, service_account
from components.labels import Component, labels_for, selector_for
from components.passwords import password
from components.pods import Container, Manifest, Resources

ADMIN = "admin"
"""MLflow's administrator."""

AUTH_SCHEMA = "mlflow_auth"
"""PostgreSQL's schema of the users' tables, beside those of the runs."""

_SETUP_SCRIPT = Path(__file__).with_name("scripts") / "mlflow_setup.py"
_AUTH = "/etc/mlflow"
_USERS = "/etc/mlflow-users"
_USER = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE")


class MlflowDatabase(TypedDict):
    """A PostgreSQL database whose owner the server is."""

    host: pulumi.Input[str]
    """Host name or address."""
    port: pulumi.Input[int]
    """Port."""
    name: pulumi.Input[str]
    """Database."""
    user: pulumi.Input[str]
    """Role that owns it."""
    password: pulumi.Input[str]
    """Its password."""


class MlflowArtifacts(TypedDict):
    """A bucket that the server keeps artifacts in; clients need no key for it."""

    endpoint: pulumi.Input[str]
    """URL of the S3 API."""
    region: pulumi.Input[str]
    """Region that requests are signed for."""
    bucket: pulumi.Input[str]
    """Bucket."""
    access_key: pulumi.Input[str]
    """Access key that may list, read and write the bucket."""
    secret_key: pulumi.Input[str]
    """Its secret."""


RESOURCES = Resources(0.5, "2Gi")
"""Where `MlflowResources` says nothing."""


class MlflowResources(TypedDict):
    """What one replica asks for."""

    cpu: NotRequired[float]
    """Processor cores [default: 0.5]."""
    memory: NotRequired[str]
    """Kubernetes quantity [default: 2Gi]."""


class MlflowServerArgs(TypedDict):
    """Arguments of `MlflowServer`."""

    namespace: pulumi.Input[str]
    """Namespace."""
    image: pulumi.Input[str]
    """An image with MLflow, its ``auth`` extra, boto3 and psycopg 3."""
    replicas: NotRequired[int]
    """Replicas [default: 1]."""
    workers: NotRequired[int]
    """Processes of each replica [default: 2]."""
    database: MlflowDatabase
    """Where runs, registered versions and users are kept."""
    artifacts: MlflowArtifacts
    """Where artifacts are kept."""
    users: list[str]
    """Who may log in beside the administrator. Everybody reads everything, and changes what is their own."""
    grants: NotRequired[dict[str, dict[str, str]]]
    """Rights beyond that, by user: READ, USE, EDIT or MANAGE on every resource of a kind (``experiment``)."""
    password_generation: NotRequired[int]
    """Another number gives everybody another password, on the server too [default: 1]."""
    resources: NotRequired[MlflowResources]
    """What one replica asks for."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object."""


class MlflowServer(pulumi.ComponentResource):
    """MLflow behind basic authentication, of which it has no default password.

    A Job migrates the database and sets users and passwords in it before the server starts, and runs again when the
    image, a user or the passwords' generation changes. The server's pods hold no user's password, the administrator's
    included. An old password goes on for up to a minute after it was changed: the servers remember logins that long.
    If a Job failed for good, delete it (``kubectl delete job``) and run ``pulumi up --refresh``.
    """

    url: pulumi.Output[str]
    """URL inside the cluster."""
    usernames: pulumi.Output[list[str]]
    """Everybody who may log in."""
    passwords: pulumi.Output[dict[str, str]]
    """Password by user, known when the server takes it."""

    def __init__(self, name: str, args: MlflowServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelport:index:MlflowServer", name, {**args}, opts)
        check(args)
        child = pulumi.ResourceOptions(parent=self)
        namespace, replicas = args["namespace"], int(args.get("replicas", 1))
        labels = labels_for(name, Component.MLFLOW, args.get("labels"))
        selector = selector_for(name, Component.MLFLOW)

        def metadata(object_name: str, **more: Any) -> Any:
            return {"name": object_name, "namespace": namespace, "labels": labels, **more}

        generation = args.get("password_generation", 1)
        passwords = {user: password(f"{name}-{user}", generation, self) for user in (ADMIN, *args["users"])}
        database = {key: pulumi.Output.from_input(value) for key, value in args["database"].items()}
        server_secrets = pulumi.Output.secret(
            pulumi.Output.all(**database).apply(database_files)  # pyright: ignore[reportArgumentType]
        )
        session_key = password(f"{name}-session", generation, self)
        secret_key = pulumi.Output.secret(args["artifacts"]["secret_key"])
        server = kubernetes.core.v1.Secret(
            name,
            metadata=metadata(name),
            type="Opaque",
            string_data={
                "backend-uri": server_secrets.apply(lambda found: found["backend-uri"]),
                "auth.ini": server_secrets.apply(lambda found: found["auth.ini"]),
                "session-key": session_key,
                "access-key": args["artifacts"]["access_key"],
                "secret-key": secret_key,
            },
            opts=child,
        )
        job = self._setup(name, args, passwords, server)
        account = service_account(name, metadata(name), self)
        # A sum of what the Secret holds: random passwords of forty letters cannot be found from it.
        mark = pulumi.Output.unsecret(
            pulumi.Output.all(server_secrets, session_key, args["artifacts"]["access_key"], secret_key).apply(digest)
        )
        service = kubernetes.core.v1.Service(
            name,
            metadata=metadata(name, annotations={"pulumi.com/skipAwait": "true"}),
            spec=pods.typed(service_spec(name)),
            opts=child,
        )
        if replicas > 1:
            kubernetes.policy.v1.PodDisruptionBudget(
                name,
                metadata=metadata(name),
                spec=pods.typed({"maxUnavailable": 1, "selector": {"matchLabels": selector}}),
                opts=child,
            )
        deployment = kubernetes.apps.v1.Deployment(
            name,
            metadata=metadata(name),
            spec=pods.typed(deployment_spec(name, args, labels, account, mark)),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[job, server, service]),
        )
        self.url = after(pulumi.Output.format("http://{0}.{1}.svc:{2}", name, namespace, ports.MLFLOW), deployment)
        self.usernames = pulumi.Output.from_input([ADMIN, *args["users"]])
        self.passwords = pulumi.Output.secret(after(pulumi.Output.all(**passwords), job))
        self.register_outputs({"url": self.url, "usernames": self.usernames, "passwords": self.passwords})

    def _setup(
        self,
        name: str,
        args: MlflowServerArgs,
        passwords: Mapping[str, pulumi.Output[str]],
        server: pulumi.Resource,
    ) -> kubernetes.batch.v1.Job:
        """The Job of migrations and users; another one when there is something else to do."""
        labels = labels_for(name, Component.MLFLOW_SETUP, args.get("labels"))
        child = pulumi.ResourceOptions(parent=self)

        def metadata(object_name: pulumi.Input[str]) -> Any:
            return {"name": object_name, "namespace": args["namespace"], "labels": labels}

        grants = args.get("grants", {})
        users = pulumi.Output.all(**passwords).apply(lambda found: users_file(found, grants))
        secret = kubernetes.core.v1.Secret(
            f"{name}-users",
            metadata=metadata(f"{name}-users"),
            type="Opaque",
            string_data={"users.json": pulumi.Output.secret(users)},
            opts=child,
        )
        script = _SETUP_SCRIPT.read_text()
        config = kubernetes.core.v1.ConfigMap(
            f"{name}-setup", metadata=metadata(f"{name}-setup"), data={"setup.py": script}, opts=child
        )
        account = service_account(f"{name}-setup", metadata(f"{name}-setup"), self)
        generation = int(args.get("password_generation", 1))
        database = [args["database"][key] for key in ("host", "name")]
        mark = pulumi.Output.all(args["image"], *database).apply(
            lambda found: fingerprint(found, script, args["users"], grants, generation)
        )
        return kubernetes.batch.v1.Job(
            f"{name}-setup",
            metadata=metadata(pulumi.Output.concat(f"{name}-setup-", mark)),
            spec=pods.typed(job_spec(setup_template(name, args, labels, account))),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[server, secret, config]),
        )


def check(args: MlflowServerArgs) -> None:
    """Refuse names and rights that MLflow would refuse later.

    Raises:
        ValueError: and which argument it is.
    """
    for user in args["users"]:
        if not _USER.fullmatch(user):
            raise ValueError(f"users: {user!r} must be small letters, digits and dashes")
        if user == ADMIN:
            raise ValueError(f"users: {ADMIN} is there anyway")
    if len(set(args["users"])) < len(args["users"]):
        raise ValueError("users: somebody is named twice")
    for user, rights in args.get("grants", {}).items():
        if user not in args["users"]:
            raise ValueError(f"grants: {user} is not among users")
        for kind, permission in rights.items():
            if permission not in _PERMISSIONS:
                raise ValueError(f"grants: {user}: {kind}: {permission} is none of {', '.join(_PERMISSIONS)}")


def database_files(database: Mapping[str, Any]) -> dict[str, str]:
    """Both database addresses: of runs, and, within MLflow's configuration of logins, of users."""
    user, password = (quote(str(database[key]), safe="") for key in ("user", "password"))
    uri = f"postgresql+psycopg://{user}:{password}@{database['host']}:{int(database['port'])}/{database['name']}"
    return {"backend-uri": uri, "auth.ini": auth_config(f"{uri}?options=-csearch_path={AUTH_SCHEMA}")}


def auth_config(database_uri: str) -> str:
    """MLflow's configuration of logins. It names no password: users are made by the setup."""
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {database_uri.replace('%', '%%')}\n"
        f"admin_username = {ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # A password check is deliberately slow; a training run that reports every step would pay it every time.
        "auth_cache_ttl_seconds = 60\n"
    )


def users_file(passwords: Mapping[str, str], grants: Mapping[str, Mapping[str, str]]) -> str:
    """What the setup brings about, as JSON."""
    return json.dumps(
        {
            "admin": ADMIN,
            "passwords": dict(passwords),
            "grants": {user: dict(rights) for user, rights in grants.items()},
        },
        sort_keys=True,
    )


def digest(parts: Sequence[object]) -> str:
    """A sum that is another one when a part is."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def allowed_hosts(name: str, namespace: str) -> str:
    """Host headers that the server answers to: the Service's names, and this machine's for a forwarded port."""
    service = [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"]
    here = [f"{host}{suffix}" for host in ("localhost", "127.0.0.1") for suffix in ("", ":*")]
    return ",".join([*(f"{host}{suffix}" for host in service for suffix in ("", f":{ports.MLFLOW}")), *here])


def service_spec(name: str) -> Manifest:
    """The Service's spec."""
    return {
        "type": "ClusterIP",
        "selector": selector_for(name, Component.MLFLOW),
        "ports": [{"name": "http", "port": ports.MLFLOW, "targetPort": ports.MLFLOW, "protocol": "TCP"}],
    }


def deployment_spec(
    name: str,
    args: MlflowServerArgs,
    labels: Mapping[str, str],
    account: pulumi.Input[str],
    mark: pulumi.Input[str],
) -> Manifest:
    """The server. `mark` stands for its Secret: another one starts it anew."""
    replicas = int(args.get("replicas", 1))
    selector = selector_for(name, Component.MLFLOW)
    hosts = pulumi.Output.from_input(args["namespace"]).apply(lambda namespace: allowed_hosts(name, namespace))
    container = Container(
        "mlflow",
        args["image"],
        pods.sized(args.get("resources", {}), RESOURCES),
        command=["python", "-P", "-m", "mlflow", "server"],
        args=[
            "--app-name=basic-auth",
            "--serve-artifacts",
            pulumi.Output.concat("--artifacts-destination=s3://", args["artifacts"]["bucket"]),
            "--host=0.0.0.0",
            f"--port={ports.MLFLOW}",
            f"--workers={int(args.get('workers', 2))}",
            pulumi.Output.concat("--allowed-hosts=", hosts),
        ],
        env=[
            pods.secret_variable("MLFLOW_BACKEND_STORE_URI", name, "backend-uri"),
            pods.secret_variable("MLFLOW_FLASK_SERVER_SECRET_KEY", name, "session-key"),
            pods.secret_variable("AWS_ACCESS_KEY_ID", name, "access-key"),
            pods.secret_variable("AWS_SECRET_ACCESS_KEY", name, "secret-key"),
            pods.variable("AWS_DEFAULT_REGION", args["artifacts"]["region"]),
            pods.variable("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
            pods.variable("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
            pods.variable("MLFLOW_S3_ENDPOINT_URL", args["artifacts"]["endpoint"]),
            *_quiet(),
        ],
        mounts=[pods.scratch(), _auth_volume(name)],
        ports={"http": ports.MLFLOW},
        readiness=pods.http_probe("/health", ports.MLFLOW, period=5, timeout=10),
        liveness=pods.http_probe("/health", ports.MLFLOW, period=15, failures=8, timeout=10),
        startup=pods.http_probe("/health", ports.MLFLOW, period=3, failures=100, timeout=10),
        pre_stop={"sleep": {"seconds": 5}},
    )
    template = pods.pod_template(
        [container],
        labels=labels,
        service_account=account,
        annotations={GENERATION: mark},
        grace_seconds=60,
        spread_by=selector if replicas > 1 else None,
    )
    return {
        "replicas": replicas,
        "revisionHistoryLimit": 3,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": selector},
        "template": template,
    }


def setup_template(
    name: str, args: MlflowServerArgs, labels: Mapping[str, str], account: pulumi.Input[str]
) -> Manifest:
    """Pod of the Job that migrates the database and sets the users."""
    container = Container(
        "setup",
        args["image"],
        Resources(cpu=0.25, memory="1Gi"),
        command=["python", "-P", "/setup/setup.py"],
        env=[
            pods.secret_variable("MLFLOW_BACKEND_STORE_URI", name, "backend-uri"),
            pods.variable("AUTH_SCHEMA", AUTH_SCHEMA),
            pods.variable("USERS_FILE", f"{_USERS}/users.json"),
            *_quiet(),
        ],
        mounts=[
            pods.scratch(),
            _auth_volume(name),
            pods.secret_volume("users", f"{name}-users", _USERS),
            pods.config_volume("setup", f"{name}-setup", "/setup"),
        ],
    )
    return pods.pod_template([container], labels=labels, service_account=account, restart_policy="Never")


def _auth_volume(name: str) -> pods.Mount:
    """The configuration of logins, and nothing else of the server's Secret."""
    source = {
        "secret": {
            "secretName": name,
            "defaultMode": 0o440,
            "items": [{"key": "auth.ini", "path": "auth.ini"}],
        }
    }
    return pods.Mount("auth", _AUTH, source, read_only=True)


def _quiet() -> list[Manifest]:
    return [
        pods.variable("MLFLOW_AUTH_CONFIG_PATH", f"{_AUTH}/auth.ini"),
        pods.variable("MLFLOW_DISABLE_TELEMETRY", "true"),
        pods.variable("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
        pods.variable("HOME", "/tmp"),  # noqa: S108
    ]
