"""The platform's entry: keys, discovery, records that outlive their pod, and nothing public without TLS and a key."""

import hashlib
import json

import pytest

from components import pods, ports
from components.gateway import Gateway, check, keys_file, public_objects, stateful_set_spec
from components.labels import Component, labels_for
from policy.rules import violations
from tests.components.recording import record
from tests.policy.manifests import resources_of

LABELS = {"modelport.dev/stack": "dev"}
ARGS = {
    "namespace": "serving",
    "image": "example.org/platform:1.0",
    "connection_secret": "server-connection",
    "callers": ["clinic", "batch"],
    "labels": LABELS,
}
PUBLIC = {
    "hostname": "api.example.org",
    "gateway_class": "gke-l7-global-external-managed",
    "tls": {"issuer_name": "letsencrypt"},
}


def resources(**changes):
    recorded = record(lambda: Gateway("gateway", {**ARGS, **changes}))
    return resources_of({"type": each.type, "name": each.name, "inputs": each.inputs} for each in recorded)


def by_name(found, kind):
    return {each.object_name: each for each in found if each.kind == kind and each.is_kubernetes_object}


def container(found):
    return by_name(found, "StatefulSet")["gateway"].spec["template"]["spec"]["containers"][0]


def test_each_caller_has_a_key_of_its_own_and_the_server_has_hashes_only():
    secrets = by_name(resources(), "Secret")
    plain = {caller: secrets[f"gateway-key-{caller}"].properties["stringData"]["api-key"] for caller in ARGS["callers"]}
    assert plain["clinic"] != plain["batch"]
    hashes = json.loads(secrets["gateway-keys"].properties["stringData"]["keys.json"])
    assert hashes == {caller: hashlib.sha256(key.encode()).hexdigest() for caller, key in plain.items()}
    assert not [key for key in plain.values() if key in json.dumps(hashes)]


def test_the_servers_own_reader_takes_the_keys_file(tmp_path):
    from modelport.serving.gateway.keys import KeyRing

    path = tmp_path / "keys.json"
    path.write_text(keys_file({"clinic": "first", "batch": "second"}))
    assert KeyRing(path).caller("second") == "batch"
    assert KeyRing(path).caller("third") is None


def test_another_generation_draws_one_callers_key_anew():
    def keepers(found):
        return {each.name: each.properties["keepers"] for each in found if each.kind == "RandomPassword"}

    before, after = keepers(resources()), keepers(resources(key_generations={"clinic": 2}))
    assert before["gateway-key-clinic"] != after["gateway-key-clinic"]
    assert before["gateway-key-batch"] == after["gateway-key-batch"]


def test_every_triton_of_the_namespace_is_found_by_one_name():
    service = by_name(resources(), "Service")["triton-replicas"]
    assert service.spec["clusterIP"] == "None"
    pod = labels_for("polyp-seg", Component.TRITON)
    assert service.spec["selector"].items() <= pod.items()
    assert {port["name"]: port["port"] for port in service.spec["ports"]} == {
        "http": ports.TRITON_HTTP,
        "grpc": ports.TRITON_GRPC,
        "agent": ports.AGENT,
    }


def test_the_service_finds_the_servers_pods():
    found = resources()
    service, stateful_set = by_name(found, "Service")["gateway"], by_name(found, "StatefulSet")["gateway"]
    template = stateful_set.spec["template"]
    assert service.spec["selector"].items() <= template["metadata"]["labels"].items()
    assert service.spec["ports"][0]["targetPort"] == container(found)["ports"][0]["containerPort"]


def test_records_outlive_their_pod_and_their_replica():
    spec = by_name(resources(), "StatefulSet")["gateway"].spec
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["template"]["spec"]["containers"][0]["volumeMounts"]}
    claims = [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]]
    assert claims == [mounts["/spool"]]
    assert mounts["/spool"] not in [volume["name"] for volume in spec["template"]["spec"]["volumes"]]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_a_pod_has_the_time_to_finish_what_it_does():
    """Draining, uvicorn's 20 seconds for answers under way, and the last shipment's 15."""
    found = resources()
    spec = by_name(found, "StatefulSet")["gateway"].spec["template"]["spec"]
    drain = container(found)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= drain + 20 + 15
    arguments = container(found)["args"]
    assert float(arguments[arguments.index("--deadline") + 1]) < 20


def test_the_command_line_is_one_that_the_gateway_takes():
    from modelport.cli.serving import gateway

    known = {option for parameter in gateway.params for option in parameter.opts}
    given = [argument for argument in container(resources(max_megapixels=20))["args"] if argument.startswith("--")]
    assert set(given) <= known
    required = {parameter.opts[0] for parameter in gateway.params if parameter.required}
    assert required <= set(given)


def test_inside_only_unless_a_name_is_given():
    found = resources()
    assert {each.kind for each in found if each.is_kubernetes_object} == {
        "PodDisruptionBudget",
        "Secret",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    }
    assert {each.spec.get("type", "ClusterIP") for each in by_name(found, "Service").values()} == {"ClusterIP"}


def test_the_public_entry_is_tls_and_the_api_alone():
    found = by_name(resources(**PUBLIC), "HTTPRoute")
    assert [rule["matches"][0]["path"]["value"] for rule in found["gateway-api"].spec["rules"]] == ["/v1"]
    assert "backendRefs" not in found["gateway-redirect"].spec["rules"][0]


def test_the_certificate_lies_where_the_listener_looks():
    found = resources(**PUBLIC)
    certificate = by_name(found, "Certificate")["gateway-tls"]
    https = by_name(found, "Gateway")["gateway-public"].spec["listeners"][0]
    assert https["tls"]["certificateRefs"][0]["name"] == certificate.spec["secretName"]
    assert certificate.spec["issuerRef"]["kind"] == "ClusterIssuer"


def test_a_certificate_that_exists_is_used_as_it_is():
    objects = public_objects("gateway", "nginx", "api.example.org", {"secret_name": "ours"})
    assert set(objects) == {"public", "api", "redirect"}  # neither a certificate nor Google's own policies
    assert objects["public"][2]["listeners"][0]["tls"]["certificateRefs"][0]["name"] == "ours"


def test_replicas_are_left_to_the_autoscaler():
    found = resources(replicas=2, max_replicas=6)
    assert "replicas" not in by_name(found, "StatefulSet")["gateway"].spec
    scaler = by_name(found, "HorizontalPodAutoscaler")["gateway"].spec
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    assert scaler["scaleTargetRef"]["kind"] == "StatefulSet"


@pytest.mark.parametrize("changes", [{}, PUBLIC, {"max_replicas": 4}])
def test_no_rule_is_broken(changes):
    assert [str(each) for each in violations(resources(**changes)) if each.rule != "image-digest"] == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"callers": []}, "callers"),
        ({"callers": ["Clinic"]}, "callers"),
        ({"callers": ["a", "a"]}, "callers"),
        ({"key_generations": {"nobody": 2}}, "key_generations"),
        ({"hostname": "api.example.org"}, "gateway_class, tls"),
        ({**PUBLIC, "tls": {}}, "tls"),
        ({**PUBLIC, "tls": {"issuer_name": "a", "secret_name": "b"}}, "tls"),
        ({"max_replicas": 1}, "max_replicas"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changes, key):
    with pytest.raises(ValueError, match=key):
        check({**ARGS, **changes})


def test_numbers_may_arrive_as_floats():
    spec = stateful_set_spec("g", {**ARGS, "replicas": 3.0}, labels={}, account="g")
    assert spec["replicas"] == 3
    assert isinstance(spec["replicas"], int)
    assert spec["template"]["spec"]["securityContext"]["runAsUser"] == pods.USER
