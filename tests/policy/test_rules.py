"""Each rule refuses what it is for and lets pass what is right."""

import copy
import json

import pytest

from policy.resources import Resource, from_state
from policy.rules import RULES, Level, violations

DIGEST = "@sha256:" + "0123456789abcdef" * 4
RANDOM = "q7XkP2mZ9bTfL4sVnR8cJwE3hYdG6aUo1iK5xBzN"
LABELS = {"app.kubernetes.io/part-of": "modelport", "modelport.dev/stack": "dev"}
OF_MODEL = {**LABELS, "modelport.dev/model": "polyp_seg", "modelport.dev/owner": "endoscopy"}
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"


def secret(value):
    """A value as the state has it when it is a secret."""
    return {_SIGNATURE: _SECRET, "plaintext": json.dumps(value)}


def resource(kind, inputs, name="thing"):
    return from_state({"type": kind, "urn": f"urn:pulumi:dev::modelport::{kind}::{name}", "inputs": inputs})


def container(**changes):
    return {
        "name": "main",
        "image": "example.org/image:1.0" + DIGEST,
        "resources": {
            "requests": {"cpu": "1", "memory": "1Gi"},
            "limits": {"cpu": "2", "memory": "1Gi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **changes,
    }


def template(spec=None, labels=LABELS, **changes):
    return {
        "metadata": {"labels": labels},
        "spec": {
            "serviceAccountName": "worker",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container(**changes)],
            **(spec or {}),
        },
    }


def metadata(labels=LABELS, **more):
    return {"name": "thing", "namespace": "serving", "labels": labels, **more}


def deployment(labels=LABELS, spec=None, **changes):
    return resource(
        "kubernetes:apps/v1:Deployment",
        {"metadata": metadata(labels), "spec": {"template": template(spec, **changes)}},
    )


def carried(**changes):
    """A RayJob that lies in a ConfigMap as text, until somebody submits it."""
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "train"},
        "spec": {
            "submitterPodTemplate": template(),
            "rayClusterSpec": {
                "headGroupSpec": {"template": template()},
                "workerGroupSpecs": [{"template": template(**changes)}],
            },
        },
    }
    return config_map({"rayjob.json": json.dumps(job)})


def config_map(data):
    return resource("kubernetes:core/v1:ConfigMap", {"metadata": metadata(), "data": data})


def service(spec, **more):
    return resource("kubernetes:core/v1:Service", {"metadata": metadata(**more), "spec": spec})


def gateway(listeners):
    return resource(
        "kubernetes:gateway.networking.k8s.io/v1:Gateway", {"metadata": metadata(), "spec": {"listeners": listeners}}
    )


def route(rules, section="https"):
    parent = {"name": "thing", **({"sectionName": section} if section else {})}
    return resource(
        "kubernetes:gateway.networking.k8s.io/v1:HTTPRoute",
        {"metadata": metadata(), "spec": {"parentRefs": [parent], "rules": rules}},
        name="route",
    )


HTTPS = {"name": "https", "protocol": "HTTPS", "port": 443, "tls": {"certificateRefs": [{"name": "tls"}]}}
HTTP = {"name": "http", "protocol": "HTTP", "port": 80}
API = {"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}], "backendRefs": [{"name": "gateway"}]}
ALL = {"backendRefs": [{"name": "gateway"}]}
REDIRECT = {"filters": [{"type": "RequestRedirect"}]}
CLUSTER = {
    "privateClusterConfig": {"enablePrivateNodes": True},
    "controlPlaneEndpointsConfig": {"ipEndpointsConfig": {"enabled": False}},
}


def cluster(**changes):
    return resource("gcp:container/cluster:Cluster", {**CLUSTER, **changes})


def database(**addresses):
    return resource("gcp:sql/databaseInstance:DatabaseInstance", {"settings": {"ipConfiguration": addresses}})


def bucket(**inputs):
    return resource("gcp:storage/bucket:Bucket", inputs)


def rbac(kind, **inputs):
    return resource(f"kubernetes:rbac.authorization.k8s.io/v1:{kind}", {"metadata": metadata(), **inputs})


def role(**rule):
    return rbac("Role", rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], **rule}])


def binding(name="worker", kind="Role", role_name="reader", **subject):
    return rbac(
        "RoleBinding",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role_name},
        subjects=[{"kind": "ServiceAccount", "name": name, "namespace": "serving", **subject}],
    )


def account(**inputs):
    return resource("kubernetes:core/v1:ServiceAccount", {"metadata": metadata(), **inputs})


WRONG = {
    "no-public-endpoint": [
        ("load balancer", [service({"type": "LoadBalancer"})], "LoadBalancer"),
        ("node port", [service({"type": "NodePort"})], "NodePort"),
        ("external address", [service({"externalIPs": ["203.0.113.1"]})], "externalIPs"),
        ("ingress", [resource("kubernetes:networking.k8s.io/v1:Ingress", {"metadata": metadata()})], "Ingress"),
        ("no certificate", [gateway([{**HTTPS, "tls": {}}])], "certificate"),
        ("answers over plain HTTP", [gateway([HTTPS, HTTP]), route([API], "http")], "without TLS"),
        ("attached to every listener", [gateway([HTTPS, HTTP]), route([API], None)], "without TLS"),
        ("routes metrics too", [gateway([HTTPS]), route([ALL])], "asks for no key"),
        ("a path that only begins alike", [route([{**API, "matches": [{"path": {"value": "/v1x"}}]}])], "/v1x"),
        ("public control plane", [cluster(controlPlaneEndpointsConfig={})], "control plane"),
        (
            "control plane for the world",
            [
                cluster(
                    controlPlaneEndpointsConfig={},
                    masterAuthorizedNetworksConfig={"cidrBlocks": [{"cidrBlock": "0.0.0.0/0"}]},
                )
            ],
            "control plane",
        ),
        ("public nodes", [cluster(privateClusterConfig={})], "enablePrivateNodes"),
        ("database with a public address", [database(ipv4Enabled=True)], "public address"),
        ("database by default", [database()], "public address"),
        ("bucket", [bucket(uniformBucketLevelAccess=True)], "publicAccessPrevention"),
        ("bucket by object", [bucket(publicAccessPrevention="enforced")], "uniformBucketLevelAccess"),
        (
            "everybody as a member",
            [resource("gcp:storage/bucketIAMMember:BucketIAMMember", {"role": "reader", "member": "allUsers"})],
            "allUsers",
        ),
        (
            "everybody in a binding",
            [resource("gcp:x/y:IamBinding", {"role": "r", "members": ["user:a", "allAuthenticatedUsers"]})],
            "allAuthenticatedUsers",
        ),
        (
            "firewall",
            [resource("gcp:compute/firewall:Firewall", {"allows": [{}], "sourceRanges": ["0.0.0.0/0"]})],
            "lets the world in",
        ),
    ],
    "image-tag": [
        ("latest", [deployment(image="example.org/image:latest")], "latest"),
        ("none", [deployment(image="example.org:5000/image")], "no tag"),
        ("in a RayJob in a ConfigMap", [carried(image="rayproject/ray")], "data[rayjob.json]"),
        ("beforehand", [deployment(spec={"initContainers": [container(image="a:latest")]})], "latest"),
        (
            "in a cron job",
            [
                resource(
                    "kubernetes:batch/v1:CronJob",
                    {
                        "metadata": metadata(),
                        "spec": {"jobTemplate": {"spec": {"template": template(image="a:latest")}}},
                    },
                )
            ],
            "latest",
        ),
    ],
    "image-digest": [("tag only", [deployment(image="example.org/image:1.0")], "unpinned")],
    "requests-and-limits": [
        ("nothing", [deployment(resources={})], "no cpu and no memory"),
        (
            "no limit of memory",
            [deployment(resources={"requests": {"cpu": 1, "memory": 1}, "limits": {"cpu": 1}})],
            "limits: no memory",
        ),
        ("worker of a RayJob", [carried(resources={})], "workerGroupSpecs[0]"),
    ],
    "restricted-pods": [
        ("root", [deployment(spec={"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}})], "NonRoot"),
        ("user 0", [deployment(spec={"securityContext": {"runAsNonRoot": True, "runAsUser": 0}})], "as root"),
        ("no seccomp", [deployment(spec={"securityContext": {"runAsNonRoot": True}})], "seccomp"),
        ("host network", [deployment(spec={"hostNetwork": True})], "hostNetwork"),
        ("host path", [deployment(spec={"volumes": [{"name": "a", "hostPath": {"path": "/"}}]})], "hostPath"),
        ("no context", [deployment(securityContext={})], "allowPrivilegeEscalation"),
        (
            "writable root",
            [deployment(securityContext={"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}})],
            "readOnlyRootFilesystem",
        ),
        (
            "more capabilities",
            [
                deployment(
                    securityContext={
                        **container()["securityContext"],
                        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
                    }
                )
            ],
            "capabilities.add",
        ),
        ("privileged", [deployment(securityContext={"privileged": True})], "privileged"),
        ("host port", [deployment(ports=[{"containerPort": 80, "hostPort": 80}])], "hostPort 80"),
        ("worker of a RayJob", [carried(securityContext={})], "workerGroupSpecs[0]"),
    ],
    "no-plain-secret": [
        ("password", [deployment(env=[{"name": "DB_PASSWORD", "value": "hunter2"}])], "DB_PASSWORD"),
        ("key", [deployment(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}])], "AWS_SECRET_ACCESS_KEY"),
        ("token in a RayJob", [carried(env=[{"name": "RAY_AUTH_TOKEN", "value": "x"}])], "RAY_AUTH_TOKEN"),
        ("random value of an innocent name", [deployment(env=[{"name": "SALT", "value": RANDOM}])], "look random"),
        ("in an address", [deployment(env=[{"name": "DB", "value": "postgresql://me:pw@db/x"}])], "address"),
        ("command line", [deployment(args=["--key", RANDOM])], "command line"),
        ("ConfigMap", [config_map({"app.ini": f"[s3]\nsecret = {RANDOM}"})], "data[app.ini]"),
        ("private key", [config_map({"key.pem": "-----BEGIN RSA PRIVATE KEY-----\nabc"})], "private key"),
        (
            "Secret that is plain in the state",
            [resource("kubernetes:core/v1:Secret", {"metadata": metadata(), "stringData": {"password": "x"}})],
            "stringData.password",
        ),
    ],
    "no-leaked-secret": [
        (
            "password in an annotation",
            [
                resource("kubernetes:core/v1:Secret", {"stringData": secret({"password": RANDOM})}),
                service({}, annotations={"note": f"use {RANDOM}"}),
            ],
            "metadata.annotations.note",
        ),
        (
            "in a document, and in a ConfigMap",
            [
                resource("kubernetes:core/v1:Secret", {"stringData": {"a.json": secret(json.dumps({"k": RANDOM}))}}),
                config_map({"x": f"k={RANDOM}"}),
            ],
            "data.x",
        ),
    ],
    "labels": [
        ("none", [deployment(labels={})], "modelport.dev/stack"),
        ("model without an owner", [deployment(labels={**LABELS, "modelport.dev/model": "m"})], "modelport.dev/owner"),
        (
            "pods",
            [
                resource(
                    "kubernetes:apps/v1:StatefulSet",
                    {"metadata": metadata(), "spec": {"template": template(labels={})}},
                )
            ],
            "spec.template.metadata.labels",
        ),
    ],
    "named-rights": [
        ("verbs", [role(verbs=["*"])], "verbs"),
        ("resources", [role(resources=["*"])], "resources"),
        ("groups", [role(apiGroups=["*"])], "apiGroups"),
        ("part of a wildcard", [role(resources=["*/scale"])], "resources"),
        ("escalate", [role(verbs=["escalate"])], "escalate"),
        ("cluster-admin", [binding(kind="ClusterRole", role_name="cluster-admin")], "cluster-admin"),
        ("everybody", [binding(name="system:authenticated")], "everybody"),
    ],
    "api-tokens": [
        ("token without a right", [deployment(spec={"automountServiceAccountToken": True})], "no role is bound"),
        ("by default", [deployment(spec={"automountServiceAccountToken": None})], "no role is bound"),
        (
            "bound elsewhere",
            [deployment(spec={"automountServiceAccountToken": True}), binding(namespace="training")],
            "no role is bound",
        ),
        ("default account", [deployment(spec={"serviceAccountName": "default"})], "account of its own"),
        ("account that gives its token to all", [account()], "automountServiceAccountToken"),
    ],
}

RIGHT = {
    "no-public-endpoint": [
        ("cluster address", [service({"type": "ClusterIP"}), service({})]),
        (
            "internal load balancer",
            [service({"type": "LoadBalancer"}, annotations={"networking.gke.io/load-balancer-type": "Internal"})],
        ),
        ("the API, and a redirect", [gateway([HTTPS, HTTP]), route([API]), route([REDIRECT], "http")]),
        ("DNS endpoint", [cluster()]),
        (
            "named networks",
            [
                cluster(
                    controlPlaneEndpointsConfig={},
                    masterAuthorizedNetworksConfig={"cidrBlocks": [{"cidrBlock": "203.0.113.0/24"}]},
                )
            ],
        ),
        ("private database", [database(ipv4Enabled=False)]),
        ("private bucket", [bucket(uniformBucketLevelAccess=True, publicAccessPrevention="enforced")]),
        ("a named member", [resource("gcp:x/y:IamMember", {"role": "r", "member": "serviceAccount:a"})]),
        (
            "firewall for one network",
            [resource("gcp:compute/firewall:Firewall", {"allows": [{}], "sourceRanges": ["10.0.0.0/8"]})],
        ),
    ],
    "image-tag": [
        ("tag", [deployment(image="example.org:5000/image:1.0"), carried()]),
        ("digest", [deployment(image="image" + DIGEST)]),
        ("not known before the update", [deployment(image="04da6b54-80e4-46f7-96ec-b56ff0331ba9")]),
    ],
    "image-digest": [("digest", [deployment(), carried()])],
    "requests-and-limits": [("both", [deployment(), carried()])],
    "restricted-pods": [
        ("restricted", [deployment(), carried()]),
        ("volumes that are allowed", [deployment(spec={"volumes": [{"name": "a", "emptyDir": {}}]})]),
    ],
    "no-plain-secret": [
        (
            "from a Secret",
            [deployment(env=[{"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}])],
        ),
        ("a file's name", [deployment(env=[{"name": "SSL_KEY", "value": "/etc/tls/tls.key"}])]),
        ("empty", [deployment(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": ""}])]),
        ("digest of a release", [config_map({"versions.json": json.dumps({"polyp_seg": DIGEST[8:]})})]),
        ("text", [config_map({"readme": "Prometheus reads kube_statefulset_status_replicas_ready every 15 seconds."})]),
        ("certificate", [config_map({"ca": f"-----BEGIN CERTIFICATE-----\n{RANDOM}\n-----END CERTIFICATE-----"})]),
        ("secret in the state", [resource("kubernetes:core/v1:Secret", {"stringData": secret({"password": "x"})})]),
    ],
    "no-leaked-secret": [
        (
            "in Secrets only",
            [
                resource("kubernetes:core/v1:Secret", {"stringData": secret({"password": RANDOM})}),
                resource("random:index/randomPassword:RandomPassword", {"result": secret(RANDOM)}),
                deployment(),
            ],
        ),
        (
            "a user's name in a Secret may be known",
            [
                resource("kubernetes:core/v1:Secret", {"stringData": secret({"user": "modelport-registry-server"})}),
                service({}, annotations={"user": "modelport-registry-server"}),
            ],
        ),
    ],
    "labels": [
        ("platform", [deployment()]),
        (
            "model",
            [
                resource(
                    "kubernetes:apps/v1:Deployment",
                    {"metadata": metadata(OF_MODEL), "spec": {"template": template(labels=OF_MODEL)}},
                )
            ],
        ),
        ("not an object", [resource("kubernetes:helm.sh/v3:Release", {}), resource("pulumi:providers:kubernetes", {})]),
    ],
    "named-rights": [("named", [role(), binding(), binding(kind="ClusterRole", role_name="view")])],
    "api-tokens": [
        ("no token", [deployment(), carried()]),
        ("bound", [deployment(spec={"automountServiceAccountToken": True}), binding()]),
        ("account", [account(automountServiceAccountToken=False)]),
    ],
}


def cases(table):
    return [pytest.param(rule, *case[1:], id=f"{rule}: {case[0]}") for rule, listed in table.items() for case in listed]


def broken(resources):
    return {violation.rule: violation.message for violation in violations(resources)}


def test_every_rule_has_a_case_of_each():
    names = {rule.name for rule in RULES}
    assert names == set(WRONG) == set(RIGHT)
    assert all(WRONG.values())
    assert all(RIGHT.values())


@pytest.mark.parametrize(("rule", "resources", "message"), cases(WRONG))
def test_wrong_is_refused(rule, resources, message):
    said = [violation.message for violation in violations(resources) if violation.rule == rule]
    assert any(message in text for text in said), said


@pytest.mark.parametrize(("rule", "resources"), cases(RIGHT))
def test_right_passes(rule, resources):
    assert [str(violation) for violation in violations(resources) if violation.rule == rule] == []


def test_only_unpinned_images_are_merely_said():
    assert {rule.name for rule in RULES if rule.level is Level.ADVISORY} == {"image-digest"}


def test_messages_never_repeat_a_secret():
    found = [
        str(violation)
        for name in ("no-plain-secret", "no-leaked-secret")
        for _, resources, _ in WRONG[name]
        for violation in violations(resources)
    ]
    assert found
    assert not [text for text in found if RANDOM in text or "hunter2" in text]


def test_a_whole_stack_without_faults_breaks_nothing():
    assert [str(violation) for violation in violations([deployment(), carried(), binding(), role()])] == []


def test_secrets_of_a_state_are_known_by_their_place():
    found = from_state(
        {
            "type": "kubernetes:core/v1:Secret",
            "urn": "urn:pulumi:dev::modelport::kubernetes:core/v1:Secret::a",
            "inputs": {"stringData": {"k": secret("v"), "u": "w"}, "list": [secret({"deep": "x"})]},
        }
    )
    assert found.name == "a"
    assert found.properties["stringData"] == {"k": "v", "u": "w"}
    assert found.secret_paths == {"stringData.k", "list[0]"}


def test_without_knowledge_of_secrets_what_lies_in_secrets_is_searched_for():
    """The policy pack sees secrets as plain values."""
    hidden = resource("kubernetes:core/v1:Secret", {"stringData": {"password": RANDOM}})
    leak = config_map({"x": RANDOM})
    unmarked = [Resource(each.type, each.name, each.urn, copy.deepcopy(each.properties)) for each in (hidden, leak)]
    assert "data.x" in broken(unmarked)["no-leaked-secret"]
