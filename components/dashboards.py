"""Grafana dashboards, rendered. Pure: names and numbers in, Grafana's JSON out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.alerts import Objective

_DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH = 12
_HEIGHT = 8


@dataclass(frozen=True)
class Query:
    """One line, or family of lines, of a panel."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    description: str
    unit: str
    """Grafana's name of the unit, such as ``s`` or ``reqps``."""
    queries: Sequence[Query]
    kind: str = "timeseries"
    limit: float | None = None
    """Where a red line goes."""


def model_panels(objective: Objective) -> list[Panel]:
    """What the engineer on call looks at for one model, most telling first."""
    model = objective.model
    # A release's steps are models of their own in Triton: polyp_seg.network.<hash>.
    steps = f'model=~"{model}([.].+)?"'
    replicas = f'max by (namespace, pod) (modelport_agent_converged{{model="{model}"}} >= bool 0)'
    return [
        Panel(
            "Latency by phase, 99 of 100",
            "From the whole upload to the answer. The red line is what is promised.",
            "s",
            [
                Query(
                    "histogram_quantile(0.99, sum by (le, phase) "
                    f'(rate(modelport_gateway_seconds_bucket{{model="{model}"}}[$__rate_interval])))',
                    "{{phase}}",
                )
            ],
            limit=objective.latency_ms / 1000,
        ),
        Panel(
            "Latency by phase, median",
            "What most users see.",
            "s",
            [
                Query(
                    "histogram_quantile(0.5, sum by (le, phase) "
                    f'(rate(modelport_gateway_seconds_bucket{{model="{model}"}}[$__rate_interval])))',
                    "{{phase}}",
                )
            ],
        ),
        Panel(
            "Requests by outcome",
            "Status and reason, as the API answers. The red line is the traffic that the model was sized for.",
            "reqps",
            [
                Query(
                    "sum by (status, reason) "
                    f'(rate(modelport_gateway_requests_total{{model="{model}"}}[$__rate_interval]))',
                    "{{status}} {{reason}}",
                )
            ],
            limit=objective.requests_per_second,
        ),
        Panel(
            "In flight",
            "Predictions of every model that each gateway works on, and those that wait until others are answered; "
            "it turns away what waits too long.",
            "short",
            [
                Query("sum by (pod) (modelport_gateway_in_flight)", "{{pod}}"),
                Query("sum by (pod) (modelport_gateway_queued)", "{{pod}} waiting"),
            ],
        ),
        Panel(
            "Time in Triton's queue, per request",
            "Replicas are added when this grows.",
            "µs",
            [
                Query(
                    f"sum by (model) (rate(nv_inference_queue_duration_us{{{steps}}}[$__rate_interval])) / "
                    f"sum by (model) (rate(nv_inference_request_success{{{steps}}}[$__rate_interval]) > 0)",
                    "{{model}}",
                )
            ],
        ),
        Panel(
            "Requests that wait in Triton",
            "Per step.",
            "short",
            [Query(f"sum by (model) (nv_inference_pending_request_count{{{steps}}})", "{{model}}")],
        ),
        Panel(
            "GPU use of the replicas",
            "Of the GPUs that the model's replicas see; other models of a shared GPU are in it.",
            "percentunit",
            [
                Query(
                    f"nv_gpu_utilization * on (namespace, pod) group_left () {replicas}", "{{pod}} {{gpu_uuid}} busy"
                ),
                Query(
                    "nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes * on (namespace, pod) group_left () "
                    f"{replicas}",
                    "{{pod}} {{gpu_uuid}} memory",
                ),
            ],
            limit=1,
        ),
        Panel(
            "Replicas by serving release",
            "More than one release at a time is a change under way.",
            "short",
            [Query(f'count by (release) (modelport_agent_serving{{model="{model}"}} == 1)', "{{release}}")],
        ),
        Panel(
            "Replicas that serve the desired release",
            "Both lines together: converged.",
            "short",
            [
                Query(f'sum(modelport_agent_converged{{model="{model}"}})', "converged"),
                Query(f'count(modelport_agent_converged{{model="{model}"}})', "replicas"),
            ],
        ),
        Panel(
            "What keeps a release from serving",
            "By reason, since each replica started.",
            "short",
            [Query(f'sum by (reason) (modelport_agent_failures_total{{model="{model}"}})', "{{reason}}")],
        ),
    ]


def dashboard(objective: Objective) -> str:
    """Grafana's JSON of a model's dashboard; the same text for the same objective."""
    content = {
        "uid": f"modelport-{objective.model.replace('_', '-')}"[:40],
        "title": f"Model {objective.model}",
        "description": f"Owner: {objective.owner}",
        "tags": ["modelport", objective.model, objective.owner],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": []},
        "panels": [_panel(number, panel) for number, panel in enumerate(model_panels(objective))],
    }
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": float(panel.limit)})
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": {"x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": "line" if panel.limit is not None else "off"}},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for place, query in enumerate(panel.queries)
        ],
    }
