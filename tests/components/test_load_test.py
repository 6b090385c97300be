"""A load test as a Job: bounded, started by people, its parts find each other."""

import pytest
from click.testing import CliRunner

from components import ports
from components.load_test import LoadTest, check, job_spec
from modelport.loadtest import cluster
from policy.rules import violations
from tests.components.recording import record
from tests.policy.manifests import resources_of

ARGS = {
    "namespace": "serving",
    "image": "example.org/platform:1.0",
    "model": "polyp_seg",
    "target_url": "http://gateway.serving.svc:8080",
    "key_secret": "gateway-key-load-test",
    "connection_secret": "server-connection",
    "users": 64,
    "workers": 4,
    "duration_seconds": 60,
    "labels": {"modelport.dev/stack": "dev"},
}


def resources(**changes):
    recorded = record(lambda: LoadTest("load-polyp-seg", {**ARGS, **changes}))
    return resources_of({"type": each.type, "name": each.name, "inputs": each.inputs} for each in recorded)


def only(found, kind):
    (one,) = [each for each in found if each.kind == kind and each.is_kubernetes_object]
    return one


@pytest.mark.parametrize(
    ("changes", "kind", "suspended"),
    [
        ({}, "CronJob", True),
        ({"suspended": False, "schedule": "0 3 * * *"}, "CronJob", False),
        ({"schedule": "0 3 * * *"}, "CronJob", True),
        ({"suspended": False}, "Job", None),
    ],
)
def test_it_waits_for_people_unless_told_otherwise(changes, kind, suspended):
    made = only(resources(**changes), kind)
    assert made.spec.get("suspend") is suspended
    if kind == "Job":
        assert made.metadata["annotations"] == {"pulumi.com/skipAwait": "true"}


def test_a_master_and_its_workers_and_nothing_is_tried_again():
    spec = job_spec("load", {**ARGS, "workers": 4.0}, {})
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (5, 5, "Indexed")
    assert spec["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] > ARGS["duration_seconds"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_workers_find_the_master_through_the_service():
    found = resources()
    service = only(found, "Service")
    template = only(found, "CronJob").spec["jobTemplate"]["spec"]["template"]
    assert template["spec"]["subdomain"] == service.object_name
    assert service.spec["selector"].items() <= template["metadata"]["labels"].items()
    assert service.spec["clusterIP"] == "None"
    assert service.spec["publishNotReadyAddresses"] is True
    assert service.spec["ports"][0]["port"] == ports.LOCUST == cluster.PORT
    arguments = template["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--service") + 1] == service.object_name


def test_the_command_line_is_one_that_the_pod_takes(monkeypatch):
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    container = job_spec("load", {**ARGS}, {})["template"]["spec"]["containers"][0]
    assert container["command"] == ["python", "-m", cluster.__name__]
    # It gets as far as asking which pod it is: every argument was understood.
    done = CliRunner().invoke(cluster.main, container["args"])
    assert "JOB_COMPLETION_INDEX" in str(done.exception)


def test_the_key_is_taken_from_the_callers_secret():
    container = job_spec("load", {**ARGS}, {})["template"]["spec"]["containers"][0]
    key = next(each for each in container["env"] if each["name"] == "MODELPORT_GATEWAY_API_KEY")
    assert key["valueFrom"]["secretKeyRef"] == {"name": "gateway-key-load-test", "key": "api-key"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"workers": 0}, "workers"),
        ({"workers": 65}, "workers"),
        ({"users": 3}, "users"),
        ({"users": 1025}, "users"),
        ({"duration_seconds": 0}, "duration_seconds"),
        ({"duration_seconds": 3601}, "duration_seconds"),
    ],
)
def test_what_the_pods_would_refuse_is_refused_before(changes, key):
    with pytest.raises(ValueError, match=f"^{key}"):
        check({**ARGS, **changes})


@pytest.mark.parametrize("changes", [{}, {"suspended": False}])
def test_no_rule_is_broken(changes):
    assert [str(each) for each in violations(resources(**changes)) if each.rule != "image-digest"] == []


def test_an_open_loop_is_told_to_every_pod_and_bounded():
    (container,) = job_spec("load", {**ARGS, "rate": 40.0}, {})["template"]["spec"]["containers"]
    assert "--rate 40" in " ".join(container["args"])
    with pytest.raises(ValueError, match="rate: 5000"):
        check({**ARGS, "rate": 5000})
