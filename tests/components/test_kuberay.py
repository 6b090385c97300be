"""What a model's training makes in a cluster, and what a change of it touches."""

import base64
import json

import pytest

from components.kuberay import KubeRayOperator, Training, bundle_name, data_poll, operator_values, trigger_name
from modelport.cli.train import train
from modelport.training import rayjob
from tests.components.recording import record

BUNDLE = base64.b64encode(b"a bundle").decode()

ARGS = {
    "namespace": "training",
    "model": "polyp-seg",
    "model_name": "polyp_seg",
    "image": "registry.example/platform:1.0.0",
    "bundle": BUNDLE,
    "code_version": "0123456789abcdef" * 4,
    "connection_secret": "connection-trainer-1",
    "data_uri": "s3://modelport/datasets/polyps",
    "workers": {"count": 2, "cpus": 2, "gpus": 1, "memory": "8Gi"},
    "spot": True,
    "time_limit_seconds": 7200,
    "max_failures": 2,
    "ray_version": "2.60.0",
    "labels": {"modelport.dev/owner": "gastro", "modelport.dev/stack": "dev"},
}


def training(**changes):
    return record(lambda: Training("polyp-seg", {**ARGS, **changes}))


def only(resources, kind, ending=""):
    (found,) = [r for r in resources if r.kind == kind and r.inputs["metadata"]["name"].endswith(ending)]
    return found


def job_pods(resources):
    """Pod templates of everything that submits."""
    found = []
    for resource in resources:
        if resource.kind == "Job":
            found.append(resource.inputs["spec"]["template"])
        if resource.kind == "CronJob":
            found.append(resource.inputs["spec"]["jobTemplate"]["spec"]["template"])
    return found


def template_of(resources):
    return json.loads(only(resources, "ConfigMap", "-rayjob").inputs["data"]["rayjob.json"])


def test_the_template_is_a_rayjob_of_this_model():
    job = template_of(training())
    assert (job["apiVersion"], job["kind"], job["metadata"]["namespace"]) == ("ray.io/v1", "RayJob", "training")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["image"] == ARGS["image"]
    assert head["serviceAccountName"] == "polyp-seg-ray"


def test_the_command_line_takes_the_template_for_a_submission():
    job = rayjob.read_template(json.dumps(template_of(training())), "rayjob.json")
    options = train.make_context("train", rayjob.train_arguments(job, "rayjob.json")).params
    assert (options["name"], options["data_uri"]) == ("polyp_seg", ARGS["data_uri"])
    assert (options["checkpoints"], options["workers"], options["again"]) == ("s3", 2, False)


def test_the_template_names_the_bundle_that_exists():
    resources = training()
    bundle = only(resources, "ConfigMap", bundle_name("polyp-seg", BUNDLE))
    assert bundle.inputs["immutable"] is True
    assert bundle.inputs["binaryData"] == {"bundle.tar.gz": BUNDLE}
    assert bundle.inputs["metadata"]["name"] in json.dumps(template_of(resources))


def trigger_of(resources):
    trigger = only(resources, "Job")
    return trigger.name, trigger.inputs["metadata"]["name"]


@pytest.mark.parametrize(
    "change",
    [
        {"image": "registry.example/platform:2.0.0"},
        {"ray_version": "2.61.0"},
        {"connection_secret": "connection-trainer-2"},
        {"bundle": base64.b64encode(b"another owner, the same code").decode()},
        {"labels": {"modelport.dev/owner": "somebody else"}},
        {"workers": {"count": 4, "cpus": 1, "gpus": 0, "memory": "4Gi"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_code_triggers_no_training(change):
    assert trigger_of(training(**change)) == trigger_of(training())


@pytest.mark.parametrize(
    "change",
    [
        {"image": "registry.example/platform:2.0.0", "ray_version": "2.61.0"},
        {"code_version": "f" * 64, "bundle": base64.b64encode(b"other code").decode()},
        {"connection_secret": "connection-trainer-2"},
        {"labels": {"modelport.dev/owner": "somebody else"}},
        {"workers": {"count": 4, "cpus": 1, "gpus": 0, "memory": "4Gi"}, "spot": False},
        {"suspended": True, "schedule": "0 3 * * 0"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_trainings_go_with_is_the_same_object_whatever_changes(change):
    before, after = training(), training(**change)
    name = template_of(after)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["serviceAccountName"]
    first, second = only(before, "ServiceAccount", "-ray"), only(after, "ServiceAccount", "-ray")
    assert second.inputs["metadata"]["name"] == name
    assert first.name == second.name
    # Labels change in place. Name and namespace would be another object, and end every training.
    for account in (first, second):
        account.inputs["metadata"].pop("labels")
    assert first.inputs == second.inputs


def test_what_trainings_go_with_waits_for_them_when_it_is_deleted():
    metadata = only(training(), "ServiceAccount", "-ray").inputs["metadata"]
    assert metadata["annotations"] == {"pulumi.com/deletionPropagationPolicy": "foreground"}


def test_new_code_triggers_a_training():
    urn, name = trigger_of(training())
    new_urn, new_name = trigger_of(training(code_version="f" * 64))
    assert name != new_name
    assert urn != new_urn


def test_the_trigger_submits_once_and_pulumi_does_not_wait_for_it():
    trigger = only(training(), "Job").inputs
    (container,) = trigger["spec"]["template"]["spec"]["containers"]
    assert container["command"][:3] == ["modelport", "submit", "polyp_seg"]
    assert "--if-new" in container["command"]
    assert trigger["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"


@pytest.mark.parametrize("flag", ["--template", "--bundle"])
def test_the_submission_finds_its_files(flag):
    for template in job_pods(training()):
        (container,) = template["spec"]["containers"]
        file = container["command"][container["command"].index(flag) + 1]
        (given,) = [volume for volume in template["spec"]["volumes"] if "projected" in volume]
        (mount,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == given["name"]]
        paths = [
            f"{mount}/{item['path']}"
            for source in given["projected"]["sources"]
            for content in source.values()
            for item in content["items"]
        ]
        assert file in paths


def test_looks_for_new_data_train_only_what_is_new():
    poll = only(training(), "CronJob", "-data-poll").inputs["spec"]
    (container,) = poll["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert "--if-new" in container["command"]
    assert (poll["suspend"], poll["concurrencyPolicy"]) == (False, "Forbid")
    minutes, *others = poll["schedule"].split()
    first, second = map(int, minutes.split(","))
    assert (second - first, others) == (30, ["*"] * 4), "every half hour"


def test_a_hundred_models_look_for_data_at_minutes_of_their_own():
    minutes = [data_poll(f"model-{number}").split(",")[0] for number in range(100)]
    assert max(minutes.count(minute) for minute in minutes) < 20


@pytest.mark.parametrize(
    ("change", "suspended"),
    [({}, True), ({"schedule": "0 3 * * 0"}, False), ({"schedule": "0 3 * * 0", "suspended": True}, True)],
)
def test_retraining_is_scheduled_only_where_it_is_asked_for(change, suspended):
    again = only(training(**change), "CronJob", "-train").inputs["spec"]
    (container,) = again["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert again["suspend"] is suspended
    assert again["schedule"] == change.get("schedule", again["schedule"])
    assert "--again" in container["command"]


def test_a_suspended_training_submits_nothing_by_itself():
    resources = training(suspended=True, schedule="0 3 * * 0")
    assert not [r for r in resources if r.kind == "Job"]
    assert all(r.inputs["spec"]["suspend"] for r in resources if r.kind == "CronJob")


def test_a_person_can_train_again_with_or_without_a_schedule():
    said = []

    def build():
        Training("polyp-seg", ARGS).submit_command.apply(said.append)  # pyright: ignore[reportArgumentType]

    again = only(record(build), "CronJob", "-train").inputs["metadata"]["name"]
    assert said[0].startswith(f"kubectl create job --namespace training --from=cronjob/{again} ")


def test_the_trigger_may_submit_rayjobs_and_nothing_else():
    resources = training()
    assert {r.kind for r in resources} & {"ClusterRole", "ClusterRoleBinding"} == set()
    role = only(resources, "Role").inputs
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]},
        # Whose RayJobs they are.
        {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["polyp-seg-ray"], "verbs": ["get"]},
    ]
    binding = only(resources, "RoleBinding").inputs
    assert [subject["name"] for subject in binding["subjects"]] == ["polyp-seg-trigger"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    for template in job_pods(resources):
        assert template["spec"]["serviceAccountName"] == "polyp-seg-trigger"
        assert template["spec"]["automountServiceAccountToken"] is True


def test_no_token_is_mounted_unless_a_pod_asks():
    accounts = [r for r in training() if r.kind == "ServiceAccount"]
    assert {r.inputs["metadata"]["name"] for r in accounts} == {"polyp-seg-ray", "polyp-seg-trigger"}
    assert not any(r.inputs["automountServiceAccountToken"] for r in accounts)


def test_everything_says_whose_it_is():
    for resource in training():
        if resource.type.startswith("modelport:"):
            continue
        found = resource.inputs["metadata"]["labels"]
        assert found["modelport.dev/model"] == "polyp_seg"
        assert ARGS["labels"].items() <= found.items()
    for template in job_pods(training()):
        assert ARGS["labels"].items() <= template["metadata"]["labels"].items()
        assert template["metadata"]["labels"]["app.kubernetes.io/component"] == "training-trigger"


def test_the_longest_model_name_gives_names_that_kubernetes_takes():
    resources = training(model="m" * 40)
    limits = {"CronJob": 52, "Job": 63 - len("-12345")}
    for resource in resources:
        if "metadata" in resource.inputs:
            assert len(resource.inputs["metadata"]["name"]) <= limits.get(resource.kind, 63), resource.name


@pytest.mark.parametrize("version", ["", "not a digest", "0123"])
def test_a_code_version_that_is_no_digest_is_refused(version):
    with pytest.raises(ValueError, match="code_version"):
        trigger_name("polyp-seg", version)


def test_numbers_of_other_languages_arrive_as_floats():
    job = template_of(
        training(
            workers={"count": 2.0, "cpus": 2.0, "gpus": 1.0, "memory": "8Gi"},
            time_limit_seconds=7200.0,
            max_failures=2.0,
            wait_seconds=60.0,
        )
    )
    assert json.loads(json.dumps(job), parse_float=pytest.fail) == job


def test_the_operator_has_rights_in_its_namespaces_only():
    values = operator_values(["training"])
    assert values["watchNamespace"] == ["training"]
    assert values["singleNamespaceInstall"] is True
    assert values["crNamespacedRbacEnable"] is True


def test_an_operator_that_would_watch_everything_is_refused():
    with pytest.raises(ValueError, match="watch_namespaces"):
        operator_values([])


def test_the_operator_is_restricted_pinned_and_limited():
    values = operator_values(["training"], {"modelport.dev/stack": "dev"})
    assert values["podSecurityContext"]["runAsNonRoot"] is True
    assert values["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert values["resources"]["limits"]["memory"] == values["resources"]["requests"]["memory"]
    assert values["image"]["tag"].startswith("v1.")
    assert values["labels"]["modelport.dev/stack"] == "dev"
    # The chart writes these itself; twice in one mapping is no valid manifest.
    assert not {"app.kubernetes.io/name", "app.kubernetes.io/component"} & values["labels"].keys()


def test_the_operators_chart_is_installed_where_it_is_told():
    (release,) = [
        r
        for r in record(
            lambda: KubeRayOperator("kuberay", {"namespace": "operators", "watch_namespaces": ["training"]})
        )
        if r.kind == "Release"
    ]
    assert (release.inputs["chart"], release.inputs["namespace"]) == ("kuberay-operator", "operators")
    assert release.inputs["version"]
