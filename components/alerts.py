"""Alert rules in Prometheus' terms, rendered. Pure: numbers and names in, rule groups out.

Metrics are the gateway's, the agent's, Triton's, the kubelet's and kube-state-metrics'. Every rule says what happens to
users, who owns it, and which section of the runbook helps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Rule = dict[str, Any]

RUNBOOKS = "docs/operate.md"
"""Where runbooks are: a path in the project, or the address of the rendered page."""


class Severity(StrEnum):
    """How soon somebody must look."""

    CRITICAL = "critical"
    """Now: users get no answers, or something is being lost."""
    WARNING = "warning"
    """Today."""
    INFO = "info"
    """When planning."""


class Runbook(StrEnum):
    """Sections of the runbook, by their anchors."""

    SERVING = "what-is-serving"
    NOT_SERVING = "it-does-not-serve-what-i-promoted"
    ERRORS = "the-gateway-answers-with-an-error"
    RECORDS = "prediction-records"
    VOLUMES = "a-volume-is-nearly-full"
    SLOW = "it-is-slow"
    DOWN = "a-part-is-down"


@dataclass(frozen=True)
class Objective:
    """What is promised for a model."""

    model: str
    owner: str
    latency_ms: float
    """99 of 100 answers come within this, upload excluded."""
    requests_per_second: float
    """Traffic that it was sized for."""


def model_rules(objective: Objective, runbooks: str = RUNBOOKS) -> Rule:
    """The rule group of one model."""
    model = objective.model
    requests = f'modelport_gateway_requests_total{{model="{model}"}}'
    failed = f'modelport_gateway_requests_total{{model="{model}",status=~"5.."}}'
    buckets = f'modelport_gateway_seconds_bucket{{model="{model}",phase="total"}}'
    converged = f'modelport_agent_converged{{model="{model}"}}'
    refused = f'modelport_agent_failures_total{{model="{model}",reason=~"digest|manifest|precision|load|replay"}}'

    def rule(
        name: str, expression: str, wait: str, severity: Severity, summary: str, text: str, runbook: Runbook
    ) -> Rule:
        labels = {"model": model, "owner": objective.owner}
        return _rule(name, expression, wait, severity, summary, text, f"{runbooks}#{runbook}", labels)

    return {
        "name": f"modelport.model.{model}",
        "rules": [
            rule(
                "ModelLatencyOverObjective",
                f"histogram_quantile(0.99, sum by (le) (rate({buckets}[5m]))) > {objective.latency_ms / 1000:g}",
                "10m",
                Severity.WARNING,
                f"{model} answers more slowly than promised",
                f"One in a hundred answers takes {{{{ $value | humanizeDuration }}}} or more; "
                f"{objective.latency_ms:g} ms are promised. The dashboard shows which phase it is.",
                Runbook.SLOW,
            ),
            rule(
                "ModelErrors",
                f"sum(rate({failed}[5m])) / sum(rate({requests}[5m])) > 0.01",
                "5m",
                Severity.CRITICAL,
                f"{model} fails for its users",
                "{{ $value | humanizePercentage }} of the requests get a server's error; 1% is the limit.",
                Runbook.ERRORS,
            ),
            rule(
                "ModelNotConverged",
                f"min({converged}) == 0",
                "15m",
                Severity.WARNING,
                f"{model} does not serve the desired release",
                "At least one replica still serves another release than the promoted one; `modelport status "
                f"{model}` says which, and why.",
                Runbook.NOT_SERVING,
            ),
            rule(
                "ModelReleaseRefused",
                # The counter begins to exist at its first failure, so that an increase would never show.
                f"(max by (reason) ({refused}) > 0) and on () (min({converged}) == 0)",
                "1m",
                Severity.CRITICAL,
                f"The promoted release of {model} was refused",
                "A replica refused it ({{ $labels.reason }}); the release before it goes on serving.",
                Runbook.NOT_SERVING,
            ),
            rule(
                "ModelTrafficOverPlan",
                f"sum(rate({requests}[5m])) > {objective.requests_per_second:g}",
                "15m",
                Severity.INFO,
                f"{model} gets more traffic than it was sized for",
                f"{{{{ $value | humanize }}}} requests per second; serve.slo says {objective.requests_per_second:g}.",
                Runbook.SLOW,
            ),
            rule(
                "ModelMetricsAbsent",
                f"absent({converged})",
                "30m",
                Severity.WARNING,
                f"No replica reports {model}",
                "Nothing of it was ever promoted, or no replica can be scraped: then its other alerts are blind.",
                Runbook.SERVING,
            ),
        ],
    }


def platform_rules(namespaces: Sequence[str], owner: str, runbooks: str = RUNBOOKS) -> list[Rule]:
    """Rule groups of what all models share, over these namespaces."""
    here = f'namespace=~"{"|".join(namespaces)}"'

    def rule(
        name: str, expression: str, wait: str, severity: Severity, summary: str, text: str, runbook: Runbook
    ) -> Rule:
        return _rule(name, expression, wait, severity, summary, text, f"{runbooks}#{runbook}", {"owner": owner})

    return [
        {
            "name": "modelport.platform",
            "rules": [
                rule(
                    "TargetDown",
                    'up{job=~"modelport-(triton|agent|gateway)"} == 0',
                    "5m",
                    Severity.WARNING,
                    "{{ $labels.job }} does not answer Prometheus",
                    "Pod {{ $labels.pod }} of {{ $labels.namespace }} has given no metrics for five minutes.",
                    Runbook.DOWN,
                ),
                rule(
                    "DeploymentUnavailable",
                    f"(kube_deployment_status_replicas_available{{{here}}} == 0) "
                    f"and (kube_deployment_spec_replicas{{{here}}} > 0)",
                    "5m",
                    Severity.CRITICAL,
                    "{{ $labels.deployment }} is down",
                    "No replica in {{ $labels.namespace }} is available. With MLflow down, training and promotion "
                    "stop; serving goes on.",
                    Runbook.DOWN,
                ),
                rule(
                    "StatefulSetUnavailable",
                    f"(kube_statefulset_status_replicas_ready{{{here}}} == 0) "
                    f"and (kube_statefulset_replicas{{{here}}} > 0)",
                    "5m",
                    Severity.CRITICAL,
                    "{{ $labels.statefulset }} is down",
                    "No replica in {{ $labels.namespace }} is ready. With the object store down, what is loaded goes "
                    "on serving, and prediction records wait on the gateway's volumes.",
                    Runbook.DOWN,
                ),
                rule(
                    "VolumeFillingUp",
                    f"kubelet_volume_stats_available_bytes{{{here}}} "
                    f"/ kubelet_volume_stats_capacity_bytes{{{here}}} < 0.1",
                    "15m",
                    Severity.WARNING,
                    "A volume is nearly full",
                    "{{ $labels.persistentvolumeclaim }} in {{ $labels.namespace }} has "
                    "{{ $value | humanizePercentage }} left.",
                    Runbook.VOLUMES,
                ),
                rule(
                    "VolumesUnwatched",
                    f"absent(kubelet_volume_stats_capacity_bytes{{{here}}})",
                    "30m",
                    Severity.WARNING,
                    "Nobody sees whether volumes fill up",
                    "No kubelet can be asked on port 10250, or the storage class counts nothing (folders of a node).",
                    Runbook.VOLUMES,
                ),
                rule(
                    "JobFailed",
                    f"kube_job_status_failed{{{here}}} > 0",
                    "1m",
                    Severity.WARNING,
                    "Job {{ $labels.job_name }} failed",
                    "Backups, migrations, triggers of trainings and load tests are jobs; its pods' logs say why.",
                    Runbook.DOWN,
                ),
                rule(
                    "ObjectStoreRefusesRecords",
                    "sum by (namespace, pod) (rate(modelport_gateway_store_failures_total[10m])) > 0",
                    "10m",
                    Severity.WARNING,
                    "Prediction records cannot be stored",
                    "{{ $labels.pod }} keeps them on its volume, within a bound.",
                    Runbook.RECORDS,
                ),
                rule(
                    "RecordsDropped",
                    _grew("modelport_gateway_records_dropped_total", "15m"),
                    "0m",
                    Severity.CRITICAL,
                    "Prediction records were lost",
                    "{{ $labels.pod }} lost records: {{ $labels.reason }}.",
                    Runbook.RECORDS,
                ),
                rule(
                    "DesiredVersionsUnreadable",
                    "sum by (namespace, pod) (rate(modelport_agent_source_failures_total[10m])) > 0",
                    "10m",
                    Severity.WARNING,
                    "A replica cannot read what it should serve",
                    "{{ $labels.pod }} goes on with what it knows; promotions and rollbacks do not reach it.",
                    Runbook.NOT_SERVING,
                ),
                rule(
                    "AgentCannotConverge",
                    'sum by (namespace, pod, model, reason) (rate(modelport_agent_failures_total{reason=~"store|triton'
                    '|disk|unexpected"}[10m])) > 0',
                    "15m",
                    Severity.WARNING,
                    "A replica keeps failing to load a release",
                    "{{ $labels.pod }} tries {{ $labels.model }} again and again: {{ $labels.reason }}.",
                    Runbook.NOT_SERVING,
                ),
                rule(
                    "ManyUnauthorizedRequests",
                    'sum(rate(modelport_gateway_requests_total{status="401"}[5m])) > 1',
                    "15m",
                    Severity.WARNING,
                    "Somebody asks without a valid key",
                    "{{ $value | humanize }} requests per second are refused: a caller with an old key, or an attack.",
                    Runbook.ERRORS,
                ),
            ],
        }
    ]


def _grew(counter: str, window: str) -> str:
    # A labelled counter begins to exist with its first event, which `increase` alone does not see.
    return f"(increase({counter}[{window}]) > 0) or ({counter} unless {counter} offset {window})"


def _rule(
    name: str,
    expression: str,
    wait: str,
    severity: Severity,
    summary: str,
    description: str,
    runbook: str,
    labels: dict[str, str],
) -> Rule:
    return {
        "alert": name,
        "expr": expression,
        "for": wait,
        "labels": {**labels, "severity": severity.value},
        "annotations": {"summary": summary, "description": description, "runbook_url": runbook},
    }
