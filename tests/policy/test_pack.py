"""The policy pack as the engine meets it: a process in its own environment that is asked over gRPC."""

import subprocess
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

from policy.rules import RULES, Level
from tests.policy.environments import policy_environment

PROJECT = Path(__file__).resolve().parents[2]
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


@pytest.fixture(scope="module")
def pack():
    process = subprocess.Popen(
        [policy_environment() / "bin" / "python", "-u", PROJECT / "policy", "127.0.0.1:1", PROJECT / "policy"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = process.stdout.readline().strip()
        assert port.isdigit(), "the pack did not start"
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield analyzer_pb2_grpc.AnalyzerStub(channel)
    finally:
        process.kill()
        process.wait(10)


def properties(values):
    found = struct_pb2.Struct()
    found.update(values)
    return found


def deployment(image):
    container = {"name": "main", "image": image, "resources": {}}
    return {"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": [container]}}}}


def analyze(pack, kind, values):
    request = analyzer_pb2.AnalyzeRequest(type=kind, properties=properties(values), urn=f"urn:x::{kind}::d", name="d")
    return pack.Analyze(request, timeout=30).diagnostics


def test_every_rule_is_a_policy_of_its_level(pack):
    mandatory = analyzer_pb2.EnforcementLevel.Value("MANDATORY")
    found = {policy.name: policy.enforcementLevel for policy in pack.GetAnalyzerInfo(empty_pb2.Empty()).policies}
    assert set(found) == {rule.name for rule in RULES}
    assert {name for name, level in found.items() if level == mandatory} == {
        rule.name for rule in RULES if rule.level is Level.MANDATORY
    }


def test_a_resource_is_refused_before_it_is_made(pack):
    said = analyze(pack, "kubernetes:apps/v1:Deployment", deployment("example.org/image:latest"))
    by_policy = {diagnostic.policyName: diagnostic.message for diagnostic in said}
    assert "latest is whatever was pushed last" in by_policy["image-tag"]
    assert "requests-and-limits" in by_policy


def test_what_is_not_known_before_the_update_is_not_judged(pack):
    said = analyze(pack, "kubernetes:apps/v1:Deployment", deployment(UNKNOWN))
    messages = {diagnostic.policyName: diagnostic.message for diagnostic in said}
    assert not {"image-tag", "image-digest"} & set(messages)
    assert "can't run policy" not in "".join(messages.values())
    assert "requests-and-limits" in messages


def test_the_whole_stack_is_judged_together(pack):
    random = "q7XkP2mZ9bTfL4sVnR8cJwE3hYdG6aUo1iK5xBzN"
    resources = [
        ("kubernetes:core/v1:Secret", "s", {"stringData": {"password": random}}),
        ("kubernetes:core/v1:ConfigMap", "c", {"data": {"x": f"key {random}"}}),
    ]
    request = analyzer_pb2.AnalyzeStackRequest(
        resources=[
            analyzer_pb2.AnalyzerResource(type=kind, name=name, urn=f"urn:x::{name}", properties=properties(values))
            for kind, name, values in resources
        ]
    )
    leaked = [d for d in pack.AnalyzeStack(request, timeout=30).diagnostics if d.policyName == "no-leaked-secret"]
    assert [(diagnostic.urn, random in diagnostic.message) for diagnostic in leaked] == [("urn:x::c", False)]
