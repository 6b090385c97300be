"""Prometheus, Alertmanager and Grafana from their chart; what they scrape; and what each model adds to them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes

from components import alerts, dashboards, ports
from components.alerts import Objective
from components.charts import Values, chart_release, resources
from components.labels import COMPONENT, MANAGED_BY, MODEL, NAME, OWNER, PART_OF, Component, label_value
from components.passwords import password
from components.pods import Manifest, container_security
from components.versions import Chart

_NAME_LIMIT = 26
"""The chart cuts the names of its objects off beyond it."""

_OPERATOR = "monitoring.coreos.com/v1"

TARGETS = {
    "triton": (Component.TRITON, ports.TRITON_METRICS),
    "agent": (Component.TRITON, ports.AGENT),
    "gateway": (Component.GATEWAY, ports.GATEWAY),
    "ray": (Component.RAY, ports.RAY_METRICS),
}
"""What is scraped: pods by what they are for, and the port that they declare. The job's label is modelport-<key>."""


class MonitoringArgs(TypedDict):
    """Arguments of `Monitoring`."""

    namespace: pulumi.Input[str]
    """Namespace that everything runs in."""
    target_namespaces: list[str]
    """Namespaces whose pods are scraped and whose workloads are watched."""
    owner: str
    """Who gets alerts that are about no single model."""
    retention_days: NotRequired[int]
    """Days that metrics are kept [default: 15]."""
    storage: NotRequired[str]
    """Prometheus' volume, a Kubernetes quantity [default: 20Gi]; it never fills: the oldest goes first."""
    grafana_password_generation: NotRequired[int]
    """Another number makes another password for Grafana's administrator, and restarts Grafana with it [default: 1]."""
    receivers: NotRequired[dict[str, pulumi.Input[str]]]
    """Webhook addresses of alerts by owner; ``default`` gets those of all others. None shows alerts only in Grafana."""
    runbooks: NotRequired[str]
    """Address of docs/operate.md as people read it [default: its path]."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object."""


class Monitoring(pulumi.ComponentResource):
    """Metrics, alerts and dashboards of the platform."""

    ready: pulumi.Output[str]
    """Name of the Helm release, known when its definitions are there; depend on it before making a PodMonitor."""
    prometheus_url: pulumi.Output[str]
    """URL of Prometheus inside the cluster."""
    grafana_service: pulumi.Output[str]
    """Name of Grafana's Service, port 80."""
    grafana_secret: pulumi.Output[str]
    """Name of the Secret with Grafana's administrator: keys ``admin-user`` and ``admin-password``."""

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        if len(name) > _NAME_LIMIT:
            raise ValueError(f"name: {name!r} has more than {_NAME_LIMIT} letters, where the chart would cut it off")
        super().__init__("modelport:index:Monitoring", name, {**args}, opts)
        namespace = args["namespace"]
        grafana_secret = f"{name}-grafana-admin"
        generation = str(int(args.get("grafana_password_generation", 1)))
        needed: list[pulumi.Resource] = [
            self._secret(
                grafana_secret,
                args,
                {"admin-user": "admin", "admin-password": password(grafana_secret, int(generation), self)},
            )
        ]
        if args.get("receivers"):
            needed.append(self._secret(f"{name}-alertmanager", args, {"alertmanager.yaml": self._routes(args)}))
        release = chart_release(
            self, name, Chart.PROMETHEUS, namespace, stack_values(name, args, generation), depends_on=needed
        )
        # The definitions of these objects come with the release.
        after = pulumi.ResourceOptions(parent=self, depends_on=[release])
        for target, spec in pod_monitors(args["target_namespaces"]).items():
            kubernetes.apiextensions.CustomResource(
                f"{name}-{target}",
                api_version=_OPERATOR,
                kind="PodMonitor",
                metadata=_metadata(f"{name}-{target}", namespace, args),
                spec=spec,
                opts=after,
            )
        kubernetes.apiextensions.CustomResource(
            f"{name}-platform",
            api_version=_OPERATOR,
            kind="PrometheusRule",
            metadata=_metadata(f"{name}-platform", namespace, args),
            spec={
                "groups": alerts.platform_rules(
                    args["target_namespaces"], args["owner"], args.get("runbooks", alerts.RUNBOOKS)
                )
            },
            opts=after,
        )
        self.ready = release.name.apply(lambda given: given or name)
        self.prometheus_url = pulumi.Output.format("http://{0}-prometheus.{1}.svc:9090", name, namespace)
        self.grafana_service = pulumi.Output.from_input(f"{name}-grafana")
        self.grafana_secret = pulumi.Output.from_input(grafana_secret)
        self.register_outputs(
            {
                "ready": self.ready,
                "prometheus_url": self.prometheus_url,
                "grafana_service": self.grafana_service,
                "grafana_secret": self.grafana_secret,
            }
        )

    def _secret(
        self, name: str, args: MonitoringArgs, content: Mapping[str, pulumi.Input[str]]
    ) -> kubernetes.core.v1.Secret:
        return kubernetes.core.v1.Secret(
            name,
            metadata=_metadata(name, args["namespace"], args),
            type="Opaque",
            string_data=content,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _routes(self, args: MonitoringArgs) -> pulumi.Output[str]:
        # Alertmanager reads YAML, and JSON is YAML.
        return pulumi.Output.secret(pulumi.Output.json_dumps(alertmanager_config(args.get("receivers", {}))))


class ModelMonitoringArgs(TypedDict):
    """Arguments of `ModelMonitoring`."""

    namespace: pulumi.Input[str]
    """Namespace of `Monitoring`: Grafana reads dashboards of its own namespace only."""
    model: str
    """Name of the model, as metrics have it."""
    owner: str
    """Who is told."""
    latency_ms: float
    """Promise: 99 of 100 answers within this, in milliseconds."""
    requests_per_second: float
    """Traffic that the model was sized for."""
    runbooks: NotRequired[str]
    """Address of docs/operate.md as people read it [default: its path]."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object."""


class ModelMonitoring(pulumi.ComponentResource):
    """Alert rules and a dashboard of one model."""

    dashboard: pulumi.Output[str]
    """Name of the ConfigMap that holds the dashboard."""
    rules: pulumi.Output[str]
    """Name of the PrometheusRule."""

    def __init__(self, name: str, args: ModelMonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelport:index:ModelMonitoring", name, {**args}, opts)
        objective = Objective(
            args["model"], args["owner"], float(args["latency_ms"]), float(args["requests_per_second"])
        )
        of_model = {MODEL: label_value(args["model"]), OWNER: label_value(args["owner"])}
        child = pulumi.ResourceOptions(parent=self)
        kubernetes.apiextensions.CustomResource(
            f"{name}-rules",
            api_version=_OPERATOR,
            kind="PrometheusRule",
            metadata=_metadata(name, args["namespace"], args, of_model),
            spec={"groups": [alerts.model_rules(objective, args.get("runbooks", alerts.RUNBOOKS))]},
            opts=child,
        )
        kubernetes.core.v1.ConfigMap(
            f"{name}-dashboard",
            metadata=_metadata(f"{name}-dashboard", args["namespace"], args, {**of_model, "grafana_dashboard": "1"}),
            data={f"{args['model']}.json": dashboards.dashboard(objective)},
            opts=child,
        )
        self.rules = pulumi.Output.from_input(name)
        self.dashboard = pulumi.Output.from_input(f"{name}-dashboard")
        self.register_outputs({"rules": self.rules, "dashboard": self.dashboard})


def pod_monitors(namespaces: Sequence[str]) -> dict[str, Manifest]:
    """Specification of a PodMonitor for each of `TARGETS`."""
    return {
        target: {
            "namespaceSelector": {"matchNames": list(namespaces)},
            "selector": {"matchLabels": {COMPONENT: component.value}},
            "podMetricsEndpoints": [
                {
                    "portNumber": port,
                    "path": "/metrics",
                    "interval": "15s",
                    "relabelings": [
                        {"action": "replace", "targetLabel": "job", "replacement": f"modelport-{target}"},
                    ],
                }
            ],
        }
        for target, (component, port) in TARGETS.items()
    }


def alertmanager_config(receivers: Mapping[str, pulumi.Input[str]]) -> dict[str, Any]:
    """Alertmanager's configuration: each owner's alerts go to that owner's webhook."""
    return {
        "route": {
            "receiver": "default",
            "group_by": ["alertname", "model", "namespace"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "4h",
            "routes": [
                # A matcher quotes and escapes as JSON does.
                {"receiver": owner, "matchers": [f"owner={json.dumps(owner, ensure_ascii=False)}"]}
                for owner in sorted(receivers)
                if owner != "default"
            ],
        },
        # Without an address of its own, `default` swallows what nobody asked for.
        "receivers": [
            {
                "name": owner,
                "webhook_configs": [{"url": receivers[owner], "send_resolved": True}] if owner in receivers else [],
            }
            for owner in sorted({"default", *receivers})
        ],
    }


def stack_values(name: str, args: MonitoringArgs, generation: str) -> Values:
    """kube-prometheus-stack for a namespace that enforces the restricted Pod Security Standard.

    Left out: the node exporter, which needs the host's namespaces and is therefore refused there (nodes and volumes are
    seen through the kubelet); scraping of control plane parts and of DNS, which a managed cluster does not show and the
    network policies do not let through; and the admission webhook of rules, since rules are made and checked here.
    """
    off = {"enabled": False}
    storage = args.get("storage", "20Gi")
    return {
        "fullnameOverride": name,
        "commonLabels": args.get("labels", {}),
        "nodeExporter": off,
        "kubeControllerManager": off,
        "kubeScheduler": off,
        "kubeEtcd": off,
        "kubeProxy": off,
        "coreDns": off,
        "defaultRules": {"create": True, "rules": {"node": False, "nodeExporterAlerting": False, "windows": False}},
        "prometheusOperator": {
            "admissionWebhooks": off,
            "tls": off,
            "resources": resources("50m", "256Mi"),
            "prometheusConfigReloader": {"resources": resources("10m", "64Mi", "200m")},
        },
        "prometheus": {
            "prometheusSpec": {
                # By default it would see only what the chart itself makes.
                "podMonitorSelectorNilUsesHelmValues": False,
                "ruleSelectorNilUsesHelmValues": False,
                "retention": f"{int(args.get('retention_days', 15))}d",
                "retentionSize": retention_size(storage),
                "resources": resources("200m", "2Gi", "2"),
                "storageSpec": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": storage}},
                        }
                    }
                },
            }
        },
        "alertmanager": {
            "alertmanagerSpec": {
                "resources": resources("20m", "128Mi", "200m"),
                **(
                    {"useExistingSecret": True, "configSecret": f"{name}-alertmanager"} if args.get("receivers") else {}
                ),
            }
        },
        "kube-state-metrics": {
            "fullnameOverride": f"{name}-state",
            "resources": resources("20m", "256Mi", "200m"),
            # Not the chart's default, which would let it read every Secret of the cluster.
            "collectors": [
                "cronjobs",
                "daemonsets",
                "deployments",
                "horizontalpodautoscalers",
                "jobs",
                "namespaces",
                "nodes",
                "persistentvolumeclaims",
                "poddisruptionbudgets",
                "pods",
                "replicasets",
                "resourcequotas",
                "statefulsets",
            ],
        },
        "grafana": {
            "fullnameOverride": f"{name}-grafana",
            "admin": {
                "existingSecret": f"{name}-grafana-admin",
                "userKey": "admin-user",
                "passwordKey": "admin-password",
            },
            # Grafana takes the password when it starts with an empty volume, and it keeps none.
            "persistence": off,
            "podAnnotations": {"modelport.dev/password-generation": generation},
            "grafana.ini": {
                "analytics": {"reporting_enabled": False, "check_for_updates": False},
                "users": {"allow_sign_up": False},
                "auth.anonymous": {"enabled": False},
            },
            "testFramework": off,
            "resources": resources("50m", "512Mi"),
            # Rights in its own namespace only, and not on Secrets.
            "rbac": {"namespaced": True},
            "sidecar": {
                "securityContext": container_security(),
                "resources": resources("10m", "192Mi", "200m"),
                "dashboards": {
                    "enabled": True,
                    "label": "grafana_dashboard",
                    "labelValue": "1",
                    "resource": "configmap",
                },
                "datasources": {"enabled": True, "resource": "configmap", "uid": "prometheus"},
            },
        },
    }


def retention_size(storage: str) -> str:
    """How many bytes Prometheus may keep on a volume of this size: four fifths; the rest is for its journal.

    Raises:
        ValueError: the size is not in Gi or Ti.
    """
    for suffix, unit in (("Gi", 1024), ("Ti", 1024 * 1024)):
        number = storage.removesuffix(suffix)
        if number != storage and number.isdigit():
            return f"{int(number) * unit * 8 // 10}MB"
    raise ValueError(f"storage: {storage!r} is not a size such as 20Gi")


def _metadata(
    name: str,
    namespace: pulumi.Input[str],
    args: MonitoringArgs | ModelMonitoringArgs,
    more: Mapping[str, str] | None = None,
) -> Any:
    # Whoever adds labels says owner and model as everything else of his does.
    labels = {**(more or {}), **args.get("labels", {}), NAME: name, PART_OF: "modelport", MANAGED_BY: "pulumi"}
    return {"name": name, "namespace": namespace, "labels": labels}
