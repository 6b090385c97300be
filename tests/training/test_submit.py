"""What a submission decides and writes: tables. The same against a real API server is in tests/cluster."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_project import MODEL_YAML, write_dataset, write_project

from modelport.cli.train import _command
from modelport.contract import find_model, parse_spec
from modelport.errors import BadInput, Conflict
from modelport.training import start
from modelport.training.identity import is_run_of, ordered_spec, run_key, run_name
from modelport.training.journal import Journal
from modelport.training.rayjob import (
    CODE,
    DATA,
    RUN,
    TRAINING_LABEL,
    Phase,
    Submitted,
    Training,
    decide,
    owner_reference,
    rayjob_name,
    read_template,
    render,
    service_account,
    submitted,
    train_arguments,
)
from modelport.training.submit import Command

KEY, CODE_DIGEST, DATA_DIGEST = "a1b2c3d4e5f6" + "0" * 52, "c" * 64, "d" * 64
TRAINING = Training(
    "polyp_seg", KEY, CODE_DIGEST, f"s3://modelport/datasets/kvasir/manifests/{DATA_DIGEST}.json", DATA_DIGEST
)
BASE = "polyp-seg-a1b2c3d4e5f6"


FIRST, SECOND = "a1b2c3d4e5f6", "a1b2c3d4e5f6-2"


def job(phase: Phase, name: str = BASE, created: str = "2026-11-21T10:00:00Z", run: str = FIRST) -> Submitted:
    return Submitted(name, phase, "AppFailed: out of memory" if phase is Phase.FAILED else "", created, run)


UNFINISHED, FINISHED = Journal(run=FIRST), Journal(run=FIRST, finished=True)
RUNNING, DONE, FAILED = job(Phase.RUNNING), job(Phase.SUCCEEDED), job(Phase.FAILED)
LATER = "2026-11-22T10:00:00Z"

# (jobs; journal, or the run that is remembered; name to create or part of the reason; with --again the name, and the
# run that goes on or "")
DECISIONS = [
    ("new", [], None, BASE, (BASE, "")),
    ("running", [RUNNING], None, "trains this code on this data already", None),
    ("running, some epochs are done", [RUNNING], UNFINISHED, "already", None),
    ("done", [DONE], FINISHED, "has trained this code", (f"{BASE}-2", "")),
    ("done, its RayJob was removed", [], FINISHED, "there is nothing new", (BASE, "")),
    ("done, and all but the memory of it has gone", [], SECOND, f"run {SECOND} has trained", (BASE, "")),
    ("begun elsewhere", [], UNFINISHED, "was begun (0 epochs are done); no RayJob", (BASE, "")),
    ("failed", [FAILED], UNFINISHED, "failed (AppFailed: out of memory)", (f"{BASE}-2", FIRST)),
    ("failed before it began", [FAILED], None, "failed", (f"{BASE}-2", FIRST)),
    ("trained, and its release failed", [FAILED], FINISHED, "failed", (f"{BASE}-2", FIRST)),
    (
        "failed, and then done",
        [job(Phase.SUCCEEDED, f"{BASE}-2", LATER), FAILED],
        FINISHED,
        "has trained",
        (f"{BASE}-3", ""),
    ),
    (
        "done, and a further run failed before it began",
        [DONE, job(Phase.FAILED, f"{BASE}-2", LATER, SECOND)],
        FINISHED,
        "failed",
        (f"{BASE}-3", SECOND),
    ),
    (
        "failed, and tried again",
        [FAILED, job(Phase.RUNNING, f"{BASE}-2", LATER)],
        UNFINISHED,
        f"{BASE}-2 trains",
        None,
    ),
]


@pytest.mark.parametrize(
    ("jobs", "journal", "expected", "again"), [case[1:] for case in DECISIONS], ids=[case[0] for case in DECISIONS]
)
def test_when_a_rayjob_is_created(
    jobs: list[Submitted], journal: Journal | str | None, expected: str, again: tuple[str, str] | None
) -> None:
    there = (None, journal) if isinstance(journal, str) else (journal, None)
    found = decide(TRAINING, jobs, *there, again=False)
    if found.name is not None:
        assert found.name == expected
    else:
        assert expected in found.reason
        passing = any(part.phase is Phase.RUNNING for part in jobs) or ("has trained" in found.reason and jobs)
        assert bool(found.remedy) == (not passing), "what does not go on by itself comes with what to do"
        assert found.unfinished == (not jobs and journal is UNFINISHED)
    wanted = decide(TRAINING, jobs, *there, again=True)
    assert (None if wanted.name is None else (wanted.name, wanted.run)) == again
    assert wanted.further == (again is not None and not again[1])


STATUSES = [
    ({}, Phase.RUNNING),
    ({"jobDeploymentStatus": "Initializing"}, Phase.RUNNING),
    ({"jobDeploymentStatus": "Running", "jobStatus": "FAILED"}, Phase.RUNNING),
    ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, Phase.RUNNING),
    ({"jobDeploymentStatus": "Suspended"}, Phase.RUNNING),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, Phase.SUCCEEDED),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, Phase.FAILED),
    ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "too long"}, Phase.FAILED),
    ({"jobDeploymentStatus": "ValidationFailed"}, Phase.FAILED),
]


@pytest.mark.parametrize(("status", "phase"), STATUSES)
def test_what_kuberay_says_of_a_job(status: dict[str, Any], phase: Phase) -> None:
    metadata = {"name": "x", "creationTimestamp": LATER, "annotations": {RUN: SECOND}}
    found = submitted({"metadata": metadata, "status": status})
    assert (found.phase, found.created, found.run) == (phase, LATER, SECOND)
    assert found.reason == ("DeadlineExceeded: too long" if "reason" in status else "")


@pytest.mark.parametrize("model", ["m", "polyp_seg", "a" * 40, "a" * 28 + "__" + "b" * 10])
def test_names_are_what_kuberay_takes(model: str) -> None:
    taken: set[str] = set()
    for _ in range(12):
        name = rayjob_name(model, KEY, taken)
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= 47
        assert KEY[:12] in name
        assert name not in taken
        taken.add(name)


ACCOUNT = {"metadata": {"name": "polyp-seg-ray", "namespace": "training", "uid": "1234"}}


def template(entrypoint: str) -> dict[str, Any]:
    head = {"template": {"spec": {"serviceAccountName": "polyp-seg-ray"}}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"generateName": "polyp-seg-", "namespace": "training", "labels": {"modelport.dev/owner": "us"}},
        "spec": {"entrypoint": entrypoint, "backoffLimit": 2, "rayClusterSpec": {"headGroupSpec": head}},
    }


COMMAND = "modelport train polyp_seg --bundle /b.tar.gz --data s3://modelport/datasets/kvasir --checkpoints s3"


def test_the_rayjob_says_what_it_trains() -> None:
    made = render(
        template(f"{COMMAND} --workers 2"), TRAINING, BASE, "a1b2c3d4e5f6", owner_reference(ACCOUNT, "account")
    )
    metadata = made["metadata"]
    assert metadata["name"] == BASE
    assert "generateName" not in metadata
    assert metadata["annotations"] == {CODE: CODE_DIGEST, DATA: TRAINING.data_uri, RUN: "a1b2c3d4e5f6"}
    assert metadata["labels"]["modelport.dev/owner"] == "us"
    assert metadata["labels"][TRAINING_LABEL] == "a1b2c3d4e5f6"
    assert all(len(value) <= 63 for value in metadata["labels"].values())
    assert made["spec"]["backoffLimit"] == 2
    # The command that it runs reads the exact version of the data, and the run that it may do.
    from modelport.cli.train import train

    values = train.make_context("train", train_arguments(made, "rayjob.json")).params
    assert (values["data_uri"], values["run"], values["workers"]) == (TRAINING.data_uri, "a1b2c3d4e5f6", 2)
    assert values["bundle"] == Path("/b.tar.gz")


def test_the_rayjob_goes_with_the_account_of_its_pods() -> None:
    given = read_template(json.dumps(template(COMMAND)), "rayjob.json")
    assert service_account(given) == ACCOUNT["metadata"]["name"]
    made = render(given, TRAINING, BASE, "a1b2c3d4e5f6", owner_reference(ACCOUNT, "account"))
    assert made["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "name": "polyp-seg-ray",
            "uid": "1234",
            # Who deletes the account in the foreground waits for the RayJob.
            "blockOwnerDeletion": True,
        }
    ]


def test_nothing_is_submitted_for_a_model_that_goes() -> None:
    going = {"metadata": {**ACCOUNT["metadata"], "deletionTimestamp": "2026-11-21T10:00:00Z"}}
    with pytest.raises(Conflict, match="is being deleted"):
        owner_reference(going, "ServiceAccount training/polyp-seg-ray")


def test_what_the_templates_command_says_is_part_of_the_pair() -> None:
    made = template(f"{COMMAND} --workers 2 --set train.epochs=9 --set train.workers.gpus=1")
    command = _command(train_arguments(made, "t"), "polyp_seg", Path("t"))
    expected = Command("s3://modelport/datasets/kvasir", ("train.epochs=9", "train.workers.gpus=1"), 2)
    assert command == expected
    spec = parse_spec(MODEL_YAML)

    def key(given: Command) -> str:
        ordered = ordered_spec(spec, given.overrides, given.workers)
        return run_key(ordered, "c", "d", ordered.train.workers.count)

    assert key(Command(workers=2)) != key(Command())
    assert key(Command(overrides=("train.epochs=9",))) != key(Command())
    assert key(Command(overrides=("train.workers.gpus=1",))) == key(Command()), "other machines learn the same"


@pytest.mark.parametrize(
    ("entrypoint", "complaint"),
    [
        ("python train.py", "no `modelport train` command"),
        ("modelport train 'polyp_seg", "no command"),
        (COMMAND.replace("polyp_seg", "dry_wet"), "has 'dry_wet'"),
        (COMMAND.replace("--checkpoints s3", ""), "has 'local'"),
        (COMMAND.replace("--bundle /b.tar.gz", ""), "no command that can be submitted"),
        (f"{COMMAND} --again", "no command that can be submitted"),
        (f"{COMMAND} --worker 2", "No such option"),
    ],
)
def test_a_template_with_another_command_is_refused(entrypoint: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint) as caught:
        _command(train_arguments(template(entrypoint), "rayjob.json"), "polyp_seg", Path("rayjob.json"))
    assert caught.value.file == "rayjob.json"
    assert "entrypoint" in (caught.value.key or "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a RayJob"),
        ('{"apiVersion": "batch/v1", "kind": "Job"}', "not a RayJob"),
        ('{"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {}}', "spec: is missing"),
        ('{"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {}, "spec": {}}', "spec.entrypoint: is missing"),
        (
            '{"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {}, "spec": {"entrypoint": "modelport train"}}',
            "headGroupSpec.template.spec.serviceAccountName: is missing",
        ),
    ],
)
def test_what_is_no_rayjob_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_template(text, "rayjob.json")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("rayjob.json")


def test_a_run_belongs_to_one_training() -> None:
    assert is_run_of(run_name(KEY), KEY)
    assert is_run_of(run_name(KEY, 3), KEY)
    for other in ("a1b2c3d4e5f", "a1b2c3d4e5f6-", "a1b2c3d4e5f6-0x", "b1b2c3d4e5f6", "a1b2c3d4e5f67"):
        assert not is_run_of(other, KEY)


def test_what_changed_since_it_was_submitted_is_not_trained(tmp_path: Path) -> None:
    folder = find_model("tiny", write_project(tmp_path / "project"))
    with pytest.raises(Conflict, match="run 0123456789ab was asked for, but this is training"):
        start(folder, str(write_dataset(tmp_path / "data")), run="0123456789ab")
    assert not (tmp_path / "project" / ".modelport" / "runs").exists(), "nothing was begun"
