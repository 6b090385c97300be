"""Metrics, alerts and dashboards: they are about metrics that exist, and find the pods that have them."""

import json
import re
from pathlib import Path

import pytest

from components import alerts, dashboards
from components.alerts import Objective, Runbook
from components.labels import Component, labels_for
from components.monitoring import (
    TARGETS,
    ModelMonitoring,
    Monitoring,
    alertmanager_config,
    pod_monitors,
    retention_size,
    stack_values,
)
from modelport.serving.agent.metrics import AgentMetrics
from modelport.serving.gateway.metrics import GatewayMetrics
from policy.rules import violations
from tests.components.recording import record
from tests.policy.checks import promql_errors
from tests.policy.manifests import resources_of

PROJECT = Path(__file__).resolve().parents[2]
OBJECTIVE = Objective("polyp_seg", "endoscopy", latency_ms=250, requests_per_second=20)
ARGS = {
    "namespace": "monitoring",
    "target_namespaces": ["serving", "training"],
    "owner": "platform",
    "labels": {"modelport.dev/stack": "dev"},
}
MODEL_ARGS = {
    "namespace": "monitoring",
    "model": "polyp_seg",
    "owner": "endoscopy",
    "latency_ms": 250,
    "requests_per_second": 20.0,
    "labels": {"modelport.dev/stack": "dev"},
}

# https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
TRITON = {
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_utilization",
    "nv_inference_pending_request_count",
    "nv_inference_queue_duration_us",
    "nv_inference_request_success",
}
# https://github.com/kubernetes/kube-state-metrics/tree/main/docs and the kubelet's own.
CLUSTER = {
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas_available",
    "kube_job_status_failed",
    "kube_statefulset_replicas",
    "kube_statefulset_status_replicas_ready",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "up",
}
_NAMED = re.compile(r"\b(?:modelport|nv|kube|kubelet|node|container)_[a-z0-9_]+|\bup\b")
_LABEL = re.compile(r"(\w+)\{([^}]*)\}")


def exported():
    """Labels by the name of every sample that a gateway or an agent exports."""
    found = {}
    for metrics in (GatewayMetrics(), AgentMetrics()):
        for collector in vars(metrics).values():
            for family in getattr(collector, "describe", list)():
                labels = set(collector._labelnames)
                suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
                for suffix in suffixes:
                    found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def all_rules():
    groups = [alerts.model_rules(OBJECTIVE), *alerts.platform_rules(["serving", "training"], "platform")]
    return [rule for group in groups for rule in group["rules"]]


def expressions():
    panels = [query.expression for panel in dashboards.model_panels(OBJECTIVE) for query in panel.queries]
    return [rule["expr"] for rule in all_rules()] + panels


def test_every_metric_is_one_that_somebody_exports():
    named = {name for expression in expressions() for name in _NAMED.findall(expression)}
    assert named - set(exported()) - TRITON - CLUSTER == set()
    assert len(named) > 15


def test_every_label_of_ours_is_one_that_the_metric_has():
    ours = exported()
    wrong = [
        (name, label)
        for expression in expressions()
        for name, matchers in _LABEL.findall(expression)
        if name in ours
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        if label not in ours[name]
    ]
    assert wrong == []


def test_every_reason_that_an_alert_waits_for_is_one_that_code_gives():
    sources = "".join(
        path.read_text()
        for path in (PROJECT / "modelport" / "serving" / "agent").glob("*.py")
        if path.name != "main.py"
    )
    for rule in all_rules():
        for reasons in re.findall(r'modelport_agent_failures_total\{[^}]*reason=~"([^"]+)"', rule["expr"]):
            assert [reason for reason in reasons.split("|") if f'"{reason}"' not in sources] == []


def test_every_expression_is_promql():
    assert promql_errors([text.replace("$__rate_interval", "5m") for text in expressions()]) == []


def test_every_alert_says_what_happens_who_owns_it_and_where_help_is():
    headings = re.findall(r"^#+ (.+)$", (PROJECT / "docs" / "operate.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert {runbook.value for runbook in Runbook} <= anchors
    for rule in all_rules():
        assert rule["labels"]["owner"], rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/operate.md"
        assert anchor in anchors, rule["alert"]
    names = [rule["alert"] for rule in all_rules()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("alert", "part"),
    [
        ("ModelLatencyOverObjective", "> 0.25"),
        ("ModelTrafficOverPlan", "> 20"),
        ("ModelErrors", 'model="polyp_seg"'),
        ("ModelReleaseRefused", "digest|manifest|precision|load|replay"),
    ],
)
def test_a_models_alerts_are_about_its_own_promise(alert, part):
    rules = {rule["alert"]: rule for rule in alerts.model_rules(OBJECTIVE)["rules"]}
    assert part in rules[alert]["expr"]
    assert rules[alert]["labels"]["model"] == "polyp_seg"
    assert rules[alert]["labels"]["owner"] == "endoscopy"


def test_a_dashboard_shows_what_is_promised_and_stays_as_it_is():
    text = dashboards.dashboard(OBJECTIVE)
    assert text == dashboards.dashboard(Objective("polyp_seg", "endoscopy", 250.0, 20.0))
    content = json.loads(text)
    assert content["uid"] == "modelport-polyp-seg"
    first = content["panels"][0]
    assert first["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {"color": "red", "value": 0.25}
    identities = [panel["id"] for panel in content["panels"]]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in content["panels"]]
    assert len(set(identities)) == len(identities) == len(set(places))


def test_triton_steps_of_a_model_are_found_and_those_of_a_longer_name_are_not():
    queue = next(e for e in expressions() if "nv_inference_queue_duration_us" in e)
    pattern = re.search(r'model=~"([^"]+)"', queue)[1]
    assert re.fullmatch(pattern, "polyp_seg.network.0123abcd")
    assert re.fullmatch(pattern, "polyp_seg")
    assert not re.fullmatch(pattern, "polyp_seg_2.network.0123abcd")


def resources(build):
    return resources_of({"type": e.type, "name": e.name, "inputs": e.inputs} for e in record(build))


def test_monitors_find_the_pods_by_what_they_are_for():
    specs = pod_monitors(["serving"])
    assert set(specs) == set(TARGETS)
    for target, component in (("triton", Component.TRITON), ("agent", Component.TRITON), ("ray", Component.RAY)):
        selector = specs[target]["selector"]["matchLabels"]
        assert selector.items() <= labels_for("x", component).items()
    # Two ports of one pod must be two jobs, or "is it up" would mean either.
    jobs = [spec["podMetricsEndpoints"][0]["relabelings"][0]["replacement"] for spec in specs.values()]
    assert len(set(jobs)) == len(jobs)
    scraped = re.search(r'job=~"([^"]+)"', next(r["expr"] for r in all_rules() if r["alert"] == "TargetDown"))[1]
    assert {job for job in jobs if re.fullmatch(scraped, job)} == set(jobs) - {"modelport-ray"}


def test_grafanas_password_is_generated_and_another_generation_restarts_it():
    def parts(**changes):
        found = resources(lambda: Monitoring("monitoring", {**ARGS, **changes}))
        password = next(each for each in found if each.kind == "RandomPassword")
        release = next(each for each in found if each.kind == "Release")
        return password.properties["keepers"], release.properties["values"]["grafana"]

    keepers, grafana = parts()
    again, rotated = parts(grafana_password_generation=2)
    assert grafana["admin"]["existingSecret"] == "monitoring-grafana-admin"
    assert keepers != again
    assert grafana["podAnnotations"] != rotated["podAnnotations"]
    assert grafana["persistence"] == {"enabled": False}  # a kept volume would keep the old password


def test_the_chart_is_pinned_and_reaches_nothing_that_the_restricted_standard_refuses():
    found = resources(lambda: Monitoring("monitoring", {**ARGS}))
    release = next(each for each in found if each.kind == "Release")
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", release.properties["version"])
    values = release.properties["values"]
    # Neither nodes' own ports nor DNS servers can be reached: they would be down for ever.
    assert values["nodeExporter"] == values["coreDns"] == {"enabled": False}
    assert "secrets" not in values["kube-state-metrics"]["collectors"]
    assert values["grafana"]["rbac"] == {"namespaced": True}


def test_monitoring_waits_for_the_definitions_and_says_where_prometheus_is():
    seen = {}

    def build():
        made = Monitoring("monitoring", {**ARGS})
        made.prometheus_url.apply(lambda url: seen.update(url=url))

    found = resources(build)
    assert seen["url"] == "http://monitoring-prometheus.monitoring.svc:9090"
    assert stack_values("monitoring", {**ARGS}, "1")["fullnameOverride"] == "monitoring"
    kinds = [each.kind for each in found if each.is_kubernetes_object]
    assert kinds.count("PodMonitor") == len(TARGETS)
    assert kinds.count("PrometheusRule") == 1


def test_a_name_that_the_chart_would_cut_off_is_refused():
    with pytest.raises(ValueError, match="26 letters"):
        Monitoring("a-name-of-more-than-twenty-six", {**ARGS})


def test_alerts_go_to_their_owner_and_addresses_stay_secret():
    config = alertmanager_config({"endoscopy": "https://hooks/e", "default": "https://hooks/d"})
    assert config["route"]["routes"] == [{"receiver": "endoscopy", "matchers": ['owner="endoscopy"']}]
    receivers = {each["name"]: each["webhook_configs"] for each in config["receivers"]}
    assert receivers["endoscopy"][0]["url"] == "https://hooks/e"
    (quoted,) = alertmanager_config({'the "A" team': "https://hooks/a"})["route"]["routes"]
    assert quoted["matchers"] == ['owner="the \\"A\\" team"']
    assert alertmanager_config({"endoscopy": "https://hooks/e"})["receivers"][0] == {
        "name": "default",
        "webhook_configs": [],
    }
    found = resources(lambda: Monitoring("monitoring", {**ARGS, "receivers": {"default": "https://hooks/canary"}}))
    holding = [each for each in found if "hooks/canary" in str(each.properties) and each.is_kubernetes_object]
    assert [(each.kind, "stringData" in each.secret_paths) for each in holding] == [("Secret", True)]


@pytest.mark.parametrize(("storage", "kept"), [("20Gi", "16384MB"), ("1Ti", "838860MB")])
def test_prometheus_keeps_less_than_its_volume_holds(storage, kept):
    assert retention_size(storage) == kept


def test_a_size_that_nobody_can_read_is_refused():
    with pytest.raises(ValueError, match="20Gi"):
        retention_size("a lot")


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({}, ("endoscopy", "polyp_seg")),
        ({"owner": "Jane Doe <j@x.org>"}, ("Jane-Doe-j-x.org", "polyp_seg")),
        ({"labels": {"modelport.dev/owner": "jane", "modelport.dev/model": "polyp-seg"}}, ("jane", "polyp-seg")),
    ],
    ids=["a team", "a person as git names him", "what the caller labels everything else with"],
)
def test_a_models_objects_say_whose_they_are(changes, labels):
    found = resources(lambda: ModelMonitoring("polyp-seg", {**MODEL_ARGS, **changes}))
    objects = [each for each in found if each.is_kubernetes_object]
    assert {each.kind for each in objects} == {"ConfigMap", "PrometheusRule"}
    for each in objects:
        given = each.metadata["labels"]
        assert (given["modelport.dev/owner"], given["modelport.dev/model"]) == labels
    dashboard = next(each for each in objects if each.kind == "ConfigMap")
    assert dashboard.metadata["labels"]["grafana_dashboard"] == "1"
    rules = next(each for each in objects if each.kind == "PrometheusRule").properties["spec"]["groups"][0]["rules"]
    assert {rule["labels"]["owner"] for rule in rules} == {changes.get("owner", "endoscopy")}, "receivers go by it"


@pytest.mark.parametrize(
    "build",
    [lambda: Monitoring("monitoring", {**ARGS}), lambda: ModelMonitoring("polyp-seg", {**MODEL_ARGS})],
    ids=["platform", "model"],
)
def test_no_rule_is_broken(build):
    assert [str(each) for each in violations(resources(build))] == []
