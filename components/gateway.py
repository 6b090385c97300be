"""The platform's entry: the REST API on every replica of Triton, with API keys, and TLS where it is public."""

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes

from components import connection, pods, ports
from components.labels import COMPONENT, Component, labels_for, selector_for
from components.passwords import password
from components.pods import Container, Manifest, Mount, Resources

DISCOVERY = "triton-replicas"
"""Headless Service that resolves to every ready replica of Triton in the gateway's namespace."""

KEY = "api-key"
"""Key of a caller's Secret that holds the plain API key."""

_CONNECTION = "/etc/modelport/connection"
_KEYS = "/etc/modelport/keys"
_SPOOL = "/spool"
_CALLER = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")

# What a pod's end takes: endpoints and load balancers forget it, the server finishes what it answers (it gives that 20
# seconds, so that inferences get less), and the last records go to the object store (15 seconds).
_DRAIN_SECONDS = 15
_DEADLINE_SECONDS = 15
_GRACE_SECONDS = 75
_SPOOL_MEGABYTES = 512


class IssuerKind(StrEnum):
    """Kinds of cert-manager's issuers."""

    ISSUER = "Issuer"
    CLUSTER_ISSUER = "ClusterIssuer"


class GatewayTls(TypedDict):
    """Where the certificate comes from: an issuer, or a Secret that exists."""

    issuer_kind: NotRequired[IssuerKind]
    """Kind of cert-manager's issuer [default: ClusterIssuer]."""
    issuer_name: NotRequired[str]
    """Name of cert-manager's issuer, which must be able to prove the host name."""
    secret_name: NotRequired[str]
    """Name of a Secret of type kubernetes.io/tls that somebody else keeps up to date, instead of an issuer."""


RESOURCES = Resources(0.5, "2Gi")
"""Where `GatewayResources` says nothing."""


class GatewayResources(TypedDict):
    """What one replica asks for."""

    cpu: NotRequired[float]
    """Processor cores [default: 0.5]."""
    memory: NotRequired[str]
    """Kubernetes quantity [default: 2Gi]: images are decoded here, up to 200 megapixels at a time."""


class GatewayArgs(TypedDict):
    """Arguments of `Gateway`."""

    namespace: pulumi.Input[str]
    """Namespace that Triton's replicas are in too: discovery does not cross namespaces."""
    image: pulumi.Input[str]
    """The platform image."""
    connection_secret: pulumi.Input[str]
    """Secret whose key ``connection.json`` says how the serving identity reaches the platform."""
    replicas: NotRequired[int]
    """Replicas [default: 2]; the fewest where `max_replicas` is given."""
    max_replicas: NotRequired[int]
    """Replicas that processor load may scale to; absent keeps `replicas`."""
    callers: list[str]
    """Names of those who get an API key; they appear in prediction records."""
    key_generations: NotRequired[dict[str, int]]
    """Generation of a caller's key; another number makes another key, and the old one ends within two minutes."""
    hostname: NotRequired[str]
    """Public DNS name."""
    gateway_class: NotRequired[str]
    """Class of the Gateway API, such as gke-l7-global-external-managed; absent leaves the API inside of the cluster."""
    tls: NotRequired[GatewayTls]
    """Certificate of the public name; there is no public entry without one."""
    resources: NotRequired[GatewayResources]
    """What one replica asks for."""
    max_megapixels: NotRequired[float]
    """Largest image, millions of pixels [default: 50]."""
    spool_size: NotRequired[str]
    """Volume of a replica for prediction records that the object store does not have yet [default: 1Gi]."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object."""


class Gateway(pulumi.ComponentResource):
    """The REST API: a StatefulSet, so that prediction records that are not stored yet outlive their pod.

    Each caller has a generated API key, in a Secret of its own for handing out; the servers get hashes only.
    """

    url: pulumi.Output[str]
    """URL inside the cluster."""
    public_url: pulumi.Output[str | None]
    """URL for the world, if there is a public entry."""
    api_key_secrets: pulumi.Output[dict[str, str]]
    """Name of the Secret with the plain key (key ``api-key``), by caller."""
    service: pulumi.Output[str]
    """Name of the Service."""
    discovery: pulumi.Output[str]
    """DNS name that resolves to every ready replica of Triton."""

    def __init__(self, name: str, args: GatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check(args)
        super().__init__("modelport:index:Gateway", name, {**args}, opts)
        labels = labels_for(name, Component.GATEWAY, args.get("labels"))
        selector = selector_for(name, Component.GATEWAY)
        namespace = args["namespace"]
        child = pulumi.ResourceOptions(parent=self)

        def metadata(object_name: str, annotations: Mapping[str, str] | None = None) -> Any:
            return {"name": object_name, "namespace": namespace, "labels": labels, "annotations": annotations}

        account = kubernetes.core.v1.ServiceAccount(
            name, metadata=metadata(name), automount_service_account_token=False, opts=child
        )
        keys, secrets = self._keys(name, args, metadata)
        service = kubernetes.core.v1.Service(
            name,
            metadata=metadata(name),
            spec=pods.typed(
                {"type": "ClusterIP", "selector": selector, "ports": [_service_port("http", ports.GATEWAY)]}
            ),
            opts=child,
        )
        kubernetes.core.v1.Service(
            f"{name}-{DISCOVERY}",
            # Pulumi would wait for somebody behind it, and there is nobody until a model's pool is up.
            metadata=metadata(DISCOVERY, {"pulumi.com/skipAwait": "true"}),
            spec=pods.typed(discovery_spec()),
            opts=child,
        )
        kubernetes.policy.v1.PodDisruptionBudget(
            name,
            metadata=metadata(name),
            spec={"max_unavailable": 1, "selector": {"match_labels": selector}},
            opts=child,
        )
        kubernetes.apps.v1.StatefulSet(
            name,
            metadata=metadata(name),
            spec=pods.typed(
                stateful_set_spec(
                    name, args, labels=labels, account=account.metadata.apply(lambda made: made.name or name)
                )
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[keys]),
        )
        if "max_replicas" in args:
            kubernetes.autoscaling.v2.HorizontalPodAutoscaler(
                name, metadata=metadata(name), spec=pods.typed(autoscaler_spec(name, args)), opts=child
            )
        if "gateway_class" in args and "hostname" in args and "tls" in args:
            for suffix, (api, kind, spec) in public_objects(
                name, args["gateway_class"], args["hostname"], args["tls"]
            ).items():
                kubernetes.apiextensions.CustomResource(
                    f"{name}-{suffix}",
                    api_version=api,
                    kind=kind,
                    metadata=metadata(f"{name}-{suffix}"),
                    spec=spec,
                    opts=pulumi.ResourceOptions(parent=self, depends_on=[service]),
                )

        self.service = pulumi.Output.from_input(name)
        self.url = pulumi.Output.format("http://{0}.{1}.svc:{2}", name, namespace, ports.GATEWAY)
        self.public_url = pulumi.Output.from_input(f"https://{args['hostname']}" if "hostname" in args else None)
        self.api_key_secrets = pulumi.Output.from_input(secrets)
        self.discovery = pulumi.Output.format("{0}.{1}.svc", DISCOVERY, namespace)
        self.register_outputs(
            {
                "service": self.service,
                "url": self.url,
                "public_url": self.public_url,
                "api_key_secrets": self.api_key_secrets,
                "discovery": self.discovery,
            }
        )

    def _keys(self, name: str, args: GatewayArgs, metadata: Any) -> tuple[kubernetes.core.v1.Secret, dict[str, str]]:
        """The Secret of hashes, and by caller the name of the Secret of the plain key."""
        child = pulumi.ResourceOptions(parent=self)
        generations = args.get("key_generations", {})
        plain: dict[str, pulumi.Output[str]] = {}
        names: dict[str, str] = {}
        for caller in args["callers"]:
            plain[caller] = password(f"{name}-key-{caller}", generations.get(caller, 1), self)
            names[caller] = f"{name}-key-{caller}"
            kubernetes.core.v1.Secret(
                f"{name}-key-{caller}",
                metadata=metadata(names[caller]),
                type="Opaque",
                string_data={KEY: plain[caller]},
                opts=child,
            )
        hashes = pulumi.Output.secret(pulumi.Output.all(**plain).apply(keys_file))
        secret = kubernetes.core.v1.Secret(
            f"{name}-keys",
            metadata=metadata(f"{name}-keys"),
            type="Opaque",
            string_data={"keys.json": hashes},
            opts=child,
        )
        return secret, names


def check(args: GatewayArgs) -> None:
    """Refuse what would be half of a public entry, or an entry without a key.

    Raises:
        ValueError: and which argument it is.
    """
    if not args["callers"]:
        raise ValueError("callers: is empty; somebody must have a key, or nobody can ask")
    for caller in args["callers"]:
        if not _CALLER.fullmatch(caller):
            raise ValueError(f"callers: {caller!r} must be small letters, digits and dashes, at most 40")
    if len(set(args["callers"])) < len(args["callers"]):
        raise ValueError("callers: somebody is named twice")
    unknown = sorted(set(args.get("key_generations", {})) - set(args["callers"]))
    if unknown:
        raise ValueError(f"key_generations: {', '.join(unknown)} is not among callers")
    public = {"hostname", "gateway_class", "tls"}
    missing = sorted(public - set(args))
    if missing and len(missing) < len(public):
        raise ValueError(f"a public entry needs hostname, gateway_class and tls; missing: {', '.join(missing)}")
    if "tls" in args and ("issuer_name" in args["tls"]) == ("secret_name" in args["tls"]):
        raise ValueError("tls: give either issuer_name or secret_name")
    if int(args.get("max_replicas", 1_000_000)) < int(args.get("replicas", 2)):
        raise ValueError("max_replicas: is less than replicas")


def keys_file(keys: Mapping[str, str]) -> str:
    """The server's keys file of plain keys by caller: JSON of SHA-256 sums in hex."""
    return json.dumps({caller: hashlib.sha256(key.encode()).hexdigest() for caller, key in sorted(keys.items())})


def discovery_spec() -> Manifest:
    """A headless Service over every Triton in the namespace, whatever its pool."""
    return {
        "clusterIP": "None",
        "selector": {COMPONENT: Component.TRITON.value},
        "ports": [
            _service_port("http", ports.TRITON_HTTP),
            _service_port("grpc", ports.TRITON_GRPC),
            _service_port("agent", ports.AGENT),
        ],
    }


def stateful_set_spec(
    name: str, args: GatewayArgs, *, labels: Mapping[str, str], account: pulumi.Input[str]
) -> Manifest:
    """The replicas: each with a small volume that stays when the pod goes."""
    selector = selector_for(name, Component.GATEWAY)
    spool = Mount("spool", _SPOOL, {})
    container = Container(
        "gateway",
        args["image"],
        pods.sized(args.get("resources", {}), RESOURCES),
        command=["modelport", "gateway"],
        args=[
            *("--listen", f"0.0.0.0:{ports.GATEWAY}"),
            *("--keys", f"{_KEYS}/keys.json"),
            *("--spool", _SPOOL),
            *("--spool-megabytes", str(_SPOOL_MEGABYTES)),
            *("--deadline", str(_DEADLINE_SECONDS)),
            *("--max-megapixels", f"{float(args.get('max_megapixels', 50)):g}"),
        ],
        env=[
            pods.variable("MODELPORT_CONNECTION", f"{_CONNECTION}/{connection.FILE}"),
            pods.variable("HOME", "/tmp"),  # noqa: S108
        ],
        mounts=[
            pods.scratch(),
            pods.secret_volume("connection", args["connection_secret"], _CONNECTION),
            pods.secret_volume("keys", f"{name}-keys", _KEYS),
            spool,
        ],
        ports={"http": ports.GATEWAY},
        # Not /readyz, which is about the models: without any, this process still says so better than a refused
        # connection would, and a platform comes up before its first model is trained.
        readiness=pods.http_probe("/healthz", ports.GATEWAY, period=5, failures=2),
        liveness=pods.http_probe("/healthz", ports.GATEWAY, failures=6),
        startup=pods.http_probe("/healthz", ports.GATEWAY, period=2, failures=60),
        pre_stop={"sleep": {"seconds": _DRAIN_SECONDS}},
    )
    template = pods.pod_template(
        [container], labels=labels, service_account=account, grace_seconds=_GRACE_SECONDS, spread_by=selector
    )
    spec = template["spec"]
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != spool.name]  # it is claimed instead
    scaled = {} if "max_replicas" in args else {"replicas": int(args.get("replicas", 2))}
    return {
        **scaled,
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "minReadySeconds": 5,
        "selector": {"matchLabels": selector},
        "template": template,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "volumeClaimTemplates": [
            {
                "metadata": {"name": spool.name, "labels": selector},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": args.get("spool_size", "1Gi")}},
                },
            }
        ],
    }


def autoscaler_spec(name: str, args: GatewayArgs) -> Manifest:
    """Replicas by processor load; slow to go down, since a replica that goes takes its share of the caches along."""
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name},
        "minReplicas": int(args.get("replicas", 2)),
        "maxReplicas": int(args.get("max_replicas", 2)),
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
            }
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }


def public_objects(
    name: str, gateway_class: str, hostname: str, tls: GatewayTls
) -> dict[str, tuple[str, str, Manifest]]:
    """What makes the API public: (API version, kind, spec) by the suffix of the object's name.

    Only what asks for a key is routed: ``/v1``, and neither metrics nor health. Plain HTTP is answered by a redirect.
    """
    networking = "gateway.networking.k8s.io/v1"
    secret = tls.get("secret_name", f"{name}-tls")
    here = {"namespaces": {"from": "Same"}}
    objects: dict[str, tuple[str, str, Manifest]] = {}
    if "issuer_name" in tls:
        objects["tls"] = (
            "cert-manager.io/v1",
            "Certificate",
            {
                "secretName": secret,
                "dnsNames": [hostname],
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
                "issuerRef": {
                    "group": "cert-manager.io",
                    "kind": str(tls.get("issuer_kind", IssuerKind.CLUSTER_ISSUER)),
                    "name": tls["issuer_name"],
                },
            },
        )
    objects["public"] = (
        networking,
        "Gateway",
        {
            "gatewayClassName": gateway_class,
            "listeners": [
                {
                    "name": "https",
                    "protocol": "HTTPS",
                    "port": ports.HTTPS,
                    "hostname": hostname,
                    "tls": {
                        "mode": "Terminate",
                        "certificateRefs": [{"group": "", "kind": "Secret", "name": secret}],
                    },
                    "allowedRoutes": here,
                },
                {"name": "http", "protocol": "HTTP", "port": 80, "hostname": hostname, "allowedRoutes": here},
            ],
        },
    )
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": f"{name}-public"}
    objects["api"] = (
        networking,
        "HTTPRoute",
        {
            "parentRefs": [{**parent, "sectionName": "https"}],
            "hostnames": [hostname],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                    "backendRefs": [{"group": "", "kind": "Service", "name": name, "port": ports.GATEWAY, "weight": 1}],
                }
            ],
        },
    )
    objects["redirect"] = (
        networking,
        "HTTPRoute",
        {
            "parentRefs": [{**parent, "sectionName": "http"}],
            "hostnames": [hostname],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}],
                }
            ],
        },
    )
    if gateway_class.startswith("gke-"):
        target = {"group": "", "kind": "Service", "name": name}
        objects["health"] = (
            "networking.gke.io/v1",
            "HealthCheckPolicy",
            {
                "default": {
                    "checkIntervalSec": 10,
                    "timeoutSec": 5,
                    "healthyThreshold": 1,
                    "unhealthyThreshold": 3,
                    "config": {
                        "type": "HTTP",
                        "httpHealthCheck": {"port": ports.GATEWAY, "requestPath": "/healthz"},
                    },
                },
                "targetRef": target,
            },
        )
        # Google's own default cuts every answer off after 30 seconds; a slow upload alone may take 60.
        objects["backend"] = (
            "networking.gke.io/v1",
            "GCPBackendPolicy",
            {
                "default": {"timeoutSec": 90, "connectionDraining": {"drainingTimeoutSec": 60}},
                "targetRef": target,
            },
        )
    return objects


def _service_port(name: str, port: int) -> Manifest:
    return {"name": name, "port": port, "targetPort": port, "protocol": "TCP"}
