"""What a stack says: read once, validated whole, frozen. Errors name the configuration key and how to set it.

Every key of ``stacks/<stack>/Pulumi.<stack>.yaml`` that begins with ``modelport:`` is a field of `Settings`.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pulumi.runtime import config
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from components.accelerators import Accelerator
from components.gke import GpuDriver, ReleaseChannel, SharingStrategy
from components.object_store import ObjectStoreEngine
from components.postgres import PostgresEngine
from modelport.contract import Precision
from modelport.errors import BadInput

NAMESPACE = "modelport"
"""Namespace of the configuration keys; the project's name in Pulumi.yaml."""

GLOBAL_CLASSES = ("gke-l7-global-external-managed", "gke-l7-gxlb")
"""Gateway classes whose connections come from Google's own proxies."""
CREDENTIALS = ("reader", "trainer", "promoter", "server", "mlflow", "postgres", "triton", "gateway")
"""What can be rotated."""
ROLES = ("reader", "trainer", "promoter")
"""Roles whose connection people may be given. Whoever has one may look: `reader` is for those who do nothing else."""
CALLER = "gateway/"
"""What keys of `Settings.access` and `Settings.rotation` begin with that name a caller of the gateway."""

IMAGE = r"^([^\s@]+/)?[^\s/:@]+:[^\s/:@]+(@sha256:[0-9a-f]{64})?$"
PLATFORM_VERSION = "0.1.0"

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$", examples=["100Gi"])]
DnsName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Cron = Annotated[str, Field(pattern=r"^(\S+\s+){4}\S+$", examples=["0 3 * * *"])]


class _Section(BaseModel):
    # A misspelt key must not be a setting that silently does nothing.
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toleration(_Section):
    """A taint that pods of a node pool tolerate."""

    key: str
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] = "NoSchedule"

    def manifest(self) -> dict[str, Any]:
        """As an entry of a pod's ``tolerations``."""
        if self.value is None:
            return {"key": self.key, "operator": "Exists", "effect": self.effect}
        return {"key": self.key, "operator": "Equal", "value": self.value, "effect": self.effect}


class NodePool(_Section):
    """A pool of like nodes that GKE makes and scales."""

    machine_type: str | None = Field(
        default=None, description="Compute Engine machine type; by the accelerator if left out."
    )
    accelerator: Accelerator | None = Field(default=None, description="GPU of its machines; none makes a CPU pool.")
    accelerators: int = Field(default=1, ge=1, le=16, description="GPUs of each machine.")
    use: tuple[Literal["training", "serving"], ...] = Field(
        default=("training", "serving"), min_length=1, description="What may run there."
    )
    minimum: int = Field(default=0, ge=0, description="Nodes that are always there.")
    maximum: int = Field(ge=1, le=1000, description="Nodes at most, over all zones.")
    spot: bool = Field(default=False, description="Cheaper machines that may be taken away at any time.")
    flex_start: bool = Field(default=False, description="Queued machines (Dynamic Workload Scheduler).")
    reservation: str | None = Field(default=None, description="Name of a reservation to consume.")
    driver: GpuDriver = Field(default=GpuDriver.DEFAULT, description="NVIDIA driver that GKE installs.")
    sharing: Literal[SharingStrategy.TIME_SHARING] | None = Field(
        default=None, description="Several pods on one GPU. MPS needs the host's IPC, which the pods here may not have."
    )
    clients: int = Field(default=2, ge=2, le=48, description="Pods on one GPU, where it is shared.")
    mig_partition: str | None = Field(default=None, description="MIG partition, such as 1g.5gb.")
    zones: tuple[str, ...] = Field(
        default=(), description="Zones of its nodes; those that have the accelerator if left out."
    )
    disk_gb: int = Field(default=100, ge=50, description="Boot disk of each node in GB.")


class Nodes(_Section):
    """Like nodes that an existing cluster has."""

    cpus: float = Field(gt=0, description="Allocatable processor cores of one node.")
    memory: Quantity = Field(description="Allocatable memory of one node.")
    gpus: int = Field(default=0, ge=0, description="Allocatable GPUs of one node.")
    gpu_memory: Quantity | None = Field(default=None, description="Memory of one GPU.")
    accelerator: str | None = Field(default=None, description="Kind of its GPUs, as models ask for it.")
    count: int = Field(default=1, ge=1, description="How many there are, or may be.")
    use: tuple[Literal["training", "serving"], ...] = Field(
        default=("training", "serving"), min_length=1, description="What may run there."
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that they have.")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints that they have.")


class GkeSettings(_Section):
    """A cluster that this stack makes on GKE. Project and region are ``gcp:project`` and ``gcp:region``."""

    kind: Literal["gke"]
    zone: str | None = Field(
        default=None,
        description="A zone, or its letter, makes a zonal control plane (dev); regional if left out.",
    )
    node_zones: tuple[str, ...] = Field(
        default=(), description="Zones of the nodes; the region's own choice if left out."
    )
    release_channel: ReleaseChannel = Field(default=ReleaseChannel.REGULAR)
    maintenance_start: str = Field(default="2026-01-03T02:00:00Z", description="First maintenance window, RFC 3339.")
    maintenance_end: str = Field(default="2026-01-03T08:00:00Z")
    maintenance_recurrence: str = Field(default="FREQ=WEEKLY;BYDAY=SA,SU", description="RFC 5545 recurrence rule.")
    security_group: str | None = Field(
        default=None, description="gke-security-groups@DOMAIN, for `access` by groups of Google Workspace."
    )
    system_machine_type: str = Field(default="e2-standard-4", description="Machines of everything but models.")
    system_minimum: int = Field(default=1, ge=1, description="System nodes in each zone at least.")
    system_maximum: int = Field(default=4, ge=1, description="System nodes in each zone at most.")
    node_pools: dict[DnsName, NodePool] = Field(default_factory=dict, description="Pools for models, by name.")


class ExistingSettings(_Section):
    """A cluster that is there already: a laptop's kind, an on-premises cluster, somebody else's GKE."""

    kind: Literal["existing"]
    kubeconfig: str | None = Field(
        default=None, description="Path of the kubeconfig [default: $KUBECONFIG, ~/.kube/config]."
    )
    context: str | None = Field(
        default=None, description="Context in it. Must be set; what is told without it names the current one."
    )
    nodes: dict[DnsName, Nodes] = Field(min_length=1, description="Its nodes, by name, for placement and capacity.")


class Sized(_Section):
    """What each pod of a part of the platform asks for; small machines do with less than the components' defaults."""

    cpus: float | None = Field(default=None, gt=0, description="Processor cores [default: the component's].")
    memory: Quantity | None = Field(default=None, description="Memory, request and limit [default: the component's].")


class StoreSettings(Sized):
    """The object store."""

    engine: ObjectStoreEngine = ObjectStoreEngine.MINIO
    size: Quantity = Field(default="50Gi", description="Volume of each replica.")
    replicas: int = Field(
        default=1, ge=1, le=16, description="MinIO: 1, or 4 and more. 6 in three zones do without one. Decided once."
    )
    storage_class: str | None = Field(default=None, description="StorageClass of the volumes [default: the cluster's].")
    staging_days: int = Field(default=30, ge=1, description="Days after which staging and checkpoints expire.")


class DatabaseSettings(Sized):
    """PostgreSQL, for MLflow."""

    engine: PostgresEngine = PostgresEngine.IN_CLUSTER
    size: Quantity = "10Gi"
    storage_class: str | None = None
    tier: str = Field(default="db-custom-2-7680", description="Cloud SQL: machine.")
    high_availability: bool = Field(default=False, description="Cloud SQL: a standby in another zone.")
    backup_schedule: Cron | None = Field(default="17 2 * * *", description="In-cluster: dumps to the object store.")
    backup_days: int = Field(default=14, ge=1, description="Days that dumps are kept.")


class TrackingSettings(Sized):
    """MLflow."""

    replicas: int = Field(default=1, ge=1, le=10)


class GatewaySettings(Sized):
    """The REST API."""

    replicas: int = Field(default=1, ge=1, le=50)
    callers: tuple[DnsName, ...] = Field(default=("default",), min_length=1, description="Who has an API key.")
    hostname: str | None = Field(default=None, description="Public name; none leaves the API inside the cluster.")
    gateway_class: str | None = Field(
        default=None, description="Gateway API class, such as gke-l7-global-external-managed."
    )
    issuer: str | None = Field(default=None, description="cert-manager ClusterIssuer of the certificate.")
    sources: tuple[str, ...] = Field(
        default=(), description="Addresses that the load balancer's connections come from [default on GKE: Google's]."
    )

    @model_validator(mode="after")
    def _public_means_tls(self) -> "GatewaySettings":
        given = {name for name in ("hostname", "gateway_class", "issuer") if getattr(self, name)}
        if given and len(given) < 3:
            missing = ", ".join(sorted({"hostname", "gateway_class", "issuer"} - given))
            raise ValueError(f"a public gateway needs hostname, gateway_class and issuer; missing: {missing}")
        return self


def port_of(address: str) -> int:
    """TCP port that a webhook's address means.

    Raises:
        ValueError: it is none.
    """
    url = urlsplit(address)
    known = {"http": 80, "https": 443}
    if url.scheme not in known or not url.hostname:
        raise ValueError("is no address such as https://hooks.example.org/alerts")
    return url.port or known[url.scheme]


def _an_address(value: SecretStr) -> SecretStr:
    port_of(value.get_secret_value())
    return value


class MonitoringSettings(_Section):
    """Prometheus and Grafana."""

    enabled: bool = True
    retention_days: int = Field(default=15, ge=1)
    size: Quantity = "20Gi"
    receivers: dict[str, Annotated[SecretStr, AfterValidator(_an_address)]] = Field(
        default_factory=dict,
        description="Webhook of alerts by owner, as model.yaml or `owner` names him; `default` gets all others'. "
        "Secret: pulumi config set --path --secret modelport:monitoring.receivers.default https://...",
    )
    runbooks: str | None = Field(
        default=None, description="Address of docs/operate.md, for links in alerts [default: its path]."
    )


class OperatorSettings(_Section):
    """Operators that this stack installs; switch one off where the cluster has it, or where it is not needed."""

    kuberay: bool = True
    keda: bool = True
    cert_manager: bool = False


class TrainOverride(_Section):
    """The resource parts of ``train`` in model.yaml."""

    workers: int | None = Field(default=None, ge=1, le=256)
    cpus: float | None = Field(default=None, gt=0)
    gpus: int | None = Field(default=None, ge=0, le=16)
    memory: Quantity | None = None
    gpu_memory: Quantity | None = None
    accelerator: str | None = None
    head_cpus: float | None = Field(default=None, gt=0, description="Of the pod that drives a training [default: 1].")
    head_memory: Quantity | None = Field(default=None, description="Of that pod [default: 4Gi].")
    schedule: Cron | None = None


class ServeOverride(_Section):
    """The parts of ``serve`` in model.yaml that an environment may decide: resources, and the arithmetic."""

    replicas: int | None = Field(default=None, ge=1, le=100)
    maximum_replicas: int | None = Field(default=None, ge=1, le=100)
    precision: Precision | None = Field(
        default=None, description="Arithmetic of the network [default: what the release that is served says]."
    )
    cpus: float | None = Field(default=None, gt=0)
    gpus: int | None = Field(default=None, ge=0, le=8)
    memory: Quantity | None = None
    gpu_memory: Quantity | None = None
    accelerator: str | None = None


class LoadTestSettings(_Section):
    """How a model is asked, to see what it does under load."""

    users: int = Field(default=4, ge=1, le=256, description="Who ask at the same time.")
    rate: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="Requests a second, sent when they are due, answered or not [default: each user waits].",
    )
    seconds: int = Field(default=60, ge=1, le=3600, description="How long.")


def _load_test(value: object) -> object:
    """``true`` is a load test as usual, ``false`` none."""
    return ({} if value else None) if isinstance(value, bool) else value


class ModelSettings(_Section):
    """What this stack says of one model."""

    train: TrainOverride = TrainOverride()
    serve: ServeOverride = ServeOverride()
    load_test: Annotated[LoadTestSettings | None, BeforeValidator(_load_test)] = Field(
        default=None,
        description="Make a load test that `kubectl create job` starts: true, or what is other than usual.",
    )


class TritonPoolSettings(_Section):
    """A server pool that models share by naming it in ``serve.pool``."""

    replicas: int = Field(default=1, ge=1, le=100)
    maximum_replicas: int | None = Field(default=None, ge=1, le=100)
    cpus: float = Field(default=2, gt=0)
    memory: Quantity = "8Gi"
    gpus: int = Field(default=0, ge=0, le=8)
    gpu_memory: Quantity | None = None
    accelerator: str | None = None


class Settings(_Section):
    """A stack."""

    owner: str = Field(min_length=1, description="Team that answers for this environment.")
    cluster: Annotated[GkeSettings | ExistingSettings, Field(discriminator="kind")]
    image: Annotated[str, Field(pattern=IMAGE)] | None = Field(
        default=None,
        description="The platform image, with its tag [default on GKE: in the project's Artifact Registry].",
    )
    triton_image: Annotated[str, Field(pattern=IMAGE)] | None = Field(
        default=None, description="Triton's image [default: NVIDIA's]."
    )
    store: StoreSettings = StoreSettings()
    database: DatabaseSettings = DatabaseSettings()
    tracking: TrackingSettings = TrackingSettings()
    gateway: GatewaySettings = GatewaySettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    operators: OperatorSettings = OperatorSettings()
    triton_pools: dict[DnsName, TritonPoolSettings] = Field(default_factory=dict)
    models: dict[ModelName, ModelSettings] = Field(default_factory=dict, description="Overrides, by model.")
    versions: dict[ModelName, Digest] = Field(
        default_factory=dict, description="Releases that models are pinned to; others follow their promotion log."
    )
    rotation: dict[str, int] = Field(
        default_factory=dict,
        description="Raise a number to rotate that credential; gateway/NAME is one caller's key, gateway everybody's.",
    )
    access: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Groups of people, by role (reader, trainer, promoter) or caller whose key they may have "
        "(gateway/NAME).",
    )
    api_server_cidrs: tuple[str, ...] = Field(
        default=("0.0.0.0/0",), description="Where the API server is; narrow it where its address is known."
    )
    protect: bool = Field(default=False, description="Refuse to delete cluster, volumes and databases.")

    @field_validator("rotation", "access")
    @classmethod
    def _of_known(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        known = (*(CREDENTIALS if info.field_name == "rotation" else ROLES), f"{CALLER}NAME")
        for name in value:
            if name not in known and not name.startswith(CALLER):
                raise ValueError(f"there is no {name!r}; there are: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        on_gke = isinstance(self.cluster, GkeSettings)
        for key, names in (("access", self.access), ("rotation", self.rotation)):
            for name in names:
                if name.startswith(CALLER) and name.removeprefix(CALLER) not in self.gateway.callers:
                    raise ValueError(f"{key}.{name}: gateway.callers has {', '.join(self.gateway.callers)} only")
        if isinstance(self.cluster, GkeSettings) and self.cluster.security_group is None:
            # Kubernetes' own groups are there anyway; a Role bound to any other would be nobody's, without a word.
            for name, groups in self.access.items():
                if unknown := [group for group in groups if not group.startswith("system:")]:
                    raise ValueError(
                        f"access.{name}: GKE knows no group {unknown[0]} without cluster.security_group: "
                        "gke-security-groups@DOMAIN, which that group has to be a member of"
                    )
        if not on_gke and self.image is None:
            raise ValueError("image is not set, and only GKE has a place to look for it")
        if self.gateway.hostname and not on_gke and not self.gateway.sources:
            raise ValueError(
                "gateway.sources is not set: say from which addresses the load balancer's connections come"
            )
        if on_gke and self.gateway.gateway_class not in (None, *GLOBAL_CLASSES) and not self.gateway.sources:
            raise ValueError(
                f"gateway.gateway_class: {self.gateway.gateway_class} has addresses of its own; set "
                f"gateway.sources to its proxy-only subnet, or take one of {', '.join(GLOBAL_CLASSES)}"
            )
        if not on_gke and self.store.engine is ObjectStoreEngine.GCS:
            raise ValueError("store.engine: gcs needs cluster.kind: gke")
        if not on_gke and self.database.engine is PostgresEngine.CLOUD_SQL:
            raise ValueError("database.engine: cloud-sql needs cluster.kind: gke")
        if "replicas" in self.triton_pools:
            raise ValueError("triton_pools.replicas: the name is taken by the Service over all pools; choose another")
        ranges = [f"models.{name}.serve" for name, model in self.models.items() if model.serve.maximum_replicas]
        ranges += [f"triton_pools.{name}" for name, pool in self.triton_pools.items() if pool.maximum_replicas]
        if ranges and not self.monitoring.enabled:
            raise ValueError(
                f"{ranges[0]}.maximum_replicas needs monitoring.enabled: true, whose queue times it follows"
            )
        if self.gateway.issuer and not self.operators.cert_manager and on_gke:
            raise ValueError("gateway.issuer needs operators.cert_manager: true, or a cluster that has it")
        return self


class GcpSettings(_Section):
    """``gcp:project`` and ``gcp:region``."""

    project: str
    region: str


def platform_image(settings: Settings, gcp: GcpSettings | None) -> str:
    """The platform image of a stack."""
    if settings.image is not None:
        return settings.image
    assert gcp is not None
    return f"{gcp.region}-docker.pkg.dev/{gcp.project}/modelport/platform:{PLATFORM_VERSION}"


def configuration() -> Mapping[str, Any]:
    """Every key of the stack that is being run, with its value: what `pulumi.Config` reads from and cannot list."""
    texts = {**config.get_config_env(), **config.CONFIG.get()}
    return {key: _parsed(text) if key.startswith(f"{NAMESPACE}:") else text for key, text in texts.items()}


def complete(settings: Settings, project: str | None, region: str | None) -> tuple[Settings, GcpSettings | None]:
    """Settings with what follows from project and region; where on Google Cloud it is, None on an existing cluster.

    Raises:
        BadInput: project or region is not set.
    """
    if isinstance(settings.cluster, ExistingSettings):
        return settings, None
    gcp = gcp_settings(project, region)
    return settings.model_copy(update={"image": platform_image(settings, gcp)}), gcp


def parse(values: Mapping[str, Any], stack: str) -> Settings:
    """Settings of plain values, by key without its namespace.

    Raises:
        BadInput: naming the first wrong key, what was found and how to set it; every other one is listed.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)]
    key, message, remedy = problems[0]
    others = "".join(f"\n  {key}: {message} ({remedy})" for key, message, remedy in problems[1:])
    raise BadInput(message + others, file=f"stacks/{stack}/Pulumi.{stack}.yaml", key=key, remedy=remedy)


def gcp_settings(project: str | None, region: str | None) -> GcpSettings:
    """Project and region.

    Raises:
        BadInput: one is not set.
    """
    for key, value, example in (("gcp:project", project, "my-project"), ("gcp:region", region, "europe-west4")):
        if not value or value.startswith("<"):
            raise BadInput("is not set", key=key, remedy=f"pulumi config set {key} {example}")
    assert project is not None
    assert region is not None
    return GcpSettings(project=project, region=region)


def _parsed(value: str) -> Any:
    """Structured values arrive as JSON, plain ones as they are."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _problem(detail: Any) -> tuple[str, str, str]:
    # Pydantic's locations also hold the chosen kind of cluster, and a mark where a key itself is wrong.
    parts = [str(part) for part in detail["loc"] if part not in ("gke", "existing", "[key]")]
    key = f"{NAMESPACE}:" + ".".join(parts)
    kind: str = detail["type"]
    if kind == "extra_forbidden":
        return key, "is not a known key", f"remove it, or correct its spelling; known here: {_known(parts[:-1])}"
    if kind in ("missing", "union_tag_not_found"):
        return key, "is not set", f"pulumi config set --path '{key}' VALUE"
    message = detail["msg"].removeprefix("Value error, ")
    # An address of alerts is a secret, in whatever form it was given.
    found = "" if kind == "value_error" or "receivers" in parts else f", but found {detail.get('input')!r}"
    if not parts:
        return NAMESPACE, message + found, "correct it in the stack's file; infra/settings.py describes every key"
    return key, message + found, f"pulumi config set --path '{key}' VALUE"


def _known(path: list[str]) -> str:
    section: Any = Settings.model_json_schema()
    definitions = section["$defs"]
    for part in path:
        by_pattern: dict[str, Any] = section.get("patternProperties", {})
        section = (
            section.get("properties", {}).get(part)
            or next(iter(by_pattern.values()), None)
            or section.get("additionalProperties")
            or {}
        )
        choices = [section, *section.get("allOf", []), *section.get("anyOf", []), *section.get("oneOf", [])]
        references = [choice["$ref"].rsplit("/", 1)[-1] for choice in choices if "$ref" in choice]
        if references:
            merged: dict[str, Any] = {}
            for reference in references:
                merged |= definitions[reference].get("properties", {})
            section = {"properties": merged}
    return ", ".join(sorted(section.get("properties", {}))) or "none"
