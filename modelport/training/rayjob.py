"""What a submission decides and writes, as pure functions: the RayJob of one training, and whether there is to be one.

A training is a pair of code and data (`run_key`). What the template's own command says of it (``--set``, ``--workers``)
is part of the pair, so that the RayJob cannot train something else than what its name says.
"""

import itertools
import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from modelport.errors import BadInput, Conflict, Refused
from modelport.training.identity import KEY_LENGTH
from modelport.training.journal import Journal

GROUP, VERSION, KIND, PLURAL = "ray.io", "v1", "RayJob", "rayjobs"

TRAINING_LABEL = "modelport.dev/training"
"""Label of a RayJob: the beginning of its training's key."""
CODE = "modelport.dev/code"
"""Annotation: the code version, whole; label: its beginning."""
DATA = "modelport.dev/data"
"""Annotation: address of the dataset's version; label: the beginning of its digest."""
RUN = "modelport.dev/run"
"""Annotation: the run that it does."""

_LONGEST_NAME = 47
"""Of a RayJob: KubeRay derives names from it, and refuses longer ones."""
_LONGEST_SUFFIX = 5
_ENDED = ("Complete", "Failed", "ValidationFailed")
_ACCOUNT = ("rayClusterSpec", "headGroupSpec", "template", "spec", "serviceAccountName")


@dataclass(frozen=True)
class Training:
    """What is to be trained, exactly."""

    model: str
    key: str
    """Of code, data and parameters together, as `run_key` gives it."""
    code: str
    """Digest of the bundle."""
    data_uri: str
    """Address of one version of the dataset."""
    data_digest: str

    @property
    def short_key(self) -> str:
        """The part of the key that names and labels hold."""
        return self.key[:KEY_LENGTH]


class Phase(StrEnum):
    """How far a RayJob is."""

    RUNNING = "running"
    """Or waiting to."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Submitted:
    """A RayJob of this training that there is."""

    name: str
    phase: Phase
    reason: str = ""
    """Why it failed."""
    created: str = ""
    """When, as Kubernetes writes it: later ones sort behind earlier ones."""
    run: str = ""
    """Which run it does."""


@dataclass(frozen=True)
class Decision:
    """Whether a RayJob is to be created."""

    name: str | None
    """What to create; None where nothing is to be done."""
    reason: str = ""
    """Why nothing is to be done; a line for people."""
    remedy: str = ""
    """What a person can do about it, if anything."""
    unfinished: bool = False
    """Whether nothing is to be done although it was begun, and nothing goes on with it."""
    further: bool = False
    """Whether a further run is wanted, beside the one that is finished."""
    run: str = ""
    """Which run is gone on with, be it that it has no journal yet; empty means the last one that has."""


def read_template(text: str, file: str) -> dict[str, Any]:
    """The RayJob that submissions are made from.

    Raises:
        BadInput: it is no RayJob with an entrypoint and an account for its pods.
    """
    remedy = "it is a RayJob of ray.io/v1 in JSON, whose spec.entrypoint is a `modelport train` command"
    try:
        template: Any = json.loads(text)
    except ValueError as error:
        raise BadInput(f"is not JSON: {error}", file=file, remedy=remedy) from None
    found = cast(dict[str, Any], template) if isinstance(template, dict) else {}
    if (found.get("apiVersion"), found.get("kind")) != (f"{GROUP}/{VERSION}", KIND):
        raise BadInput("is not a RayJob", file=file, remedy=remedy)
    for part in ("metadata", "spec"):
        if not isinstance(found.get(part), dict):
            raise BadInput("is missing", file=file, key=part, remedy=remedy)
    if not isinstance(found["spec"].get("entrypoint"), str):
        raise BadInput("is missing", file=file, key="spec.entrypoint", remedy=remedy)
    if not service_account(found):
        raise BadInput(
            "is missing",
            file=file,
            key=".".join(("spec", *_ACCOUNT)),
            remedy="name the service account that the stack has for the model's training: RayJobs go when it goes",
        )
    return found


def train_arguments(template: Mapping[str, Any], file: str) -> list[str]:
    """What follows ``modelport train`` in the template's entrypoint.

    Raises:
        BadInput: it is another command.
    """
    entrypoint: str = template["spec"]["entrypoint"]
    try:
        words = shlex.split(entrypoint)
    except ValueError as error:
        raise BadInput(f"is no command: {error}", file=file, key="spec.entrypoint") from None
    for position, pair in enumerate(itertools.pairwise(words)):
        if pair[0].rpartition("/")[2] == "modelport" and pair[1] == "train":
            return words[position + 2 :]
    raise BadInput(
        "is no `modelport train` command",
        file=file,
        key="spec.entrypoint",
        remedy="write modelport train NAME --bundle FILE --checkpoints s3",
    )


def service_account(template: Mapping[str, Any]) -> str:
    """Name of the account that the training's pods run as, of a template as `read_template` gives it."""
    found: Any = template["spec"]
    for key in _ACCOUNT:
        found = cast(dict[str, Any], found).get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def owner_reference(account: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What makes a RayJob go with a service account, and the account wait until the RayJob has gone.

    Args:
        account: as the API server gives it.
        place: what it is, for messages.

    Raises:
        Conflict: it is being deleted.
    """
    metadata: dict[str, Any] = account["metadata"]
    if metadata.get("deletionTimestamp"):
        raise Conflict(
            "is being deleted: the stack goes, or this model of it",
            key=place,
            remedy="if the model is to stay, run `pulumi up` when that has ended, and submit it again",
        )
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "blockOwnerDeletion": True,
    }


def no_account(place: str) -> BadInput:
    """The error where the account of a template is not there."""
    return BadInput(
        "is not there: trainings run as this account, and go when it goes",
        key=place,
        remedy="`pulumi up` makes it for each model of the stack; or the template is another stack's",
    )


def no_right(place: str, said: str) -> Refused:
    """The error where whoever submits may not look at the account."""
    return Refused(
        said,
        key=place,
        remedy="run `pulumi up` with this version of modelport: it gives whoever may submit the right to look at it",
    )


def rayjob_name(model: str, key: str, taken: Collection[str] = ()) -> str:
    """Name of a training's RayJob: the model, the beginning of the key, and a number where that is taken."""
    room = _LONGEST_NAME - KEY_LENGTH - 1 - _LONGEST_SUFFIX
    base = f"{model.replace('_', '-')[:room].rstrip('-')}-{key[:KEY_LENGTH]}"
    number, name = 1, base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def render(
    template: Mapping[str, Any], training: Training, name: str, run: str, owner: Mapping[str, Any]
) -> dict[str, Any]:
    """The RayJob of one training; it trains this code on this version of the data, or refuses.

    It goes with its owner, an `owner_reference`.
    """
    given: dict[str, Any] = template["metadata"]
    metadata = {key: value for key, value in given.items() if key not in ("generateName", "namespace")}
    short = slice(KEY_LENGTH)
    labels = {TRAINING_LABEL: training.short_key, CODE: training.code[short], DATA: training.data_digest[short]}
    notes = {CODE: training.code, DATA: training.data_uri, RUN: run}
    # Of an option that is given twice, the last one counts.
    added = shlex.join(["--data", training.data_uri, "--run", run])
    return {
        **template,
        "metadata": {
            **metadata,
            "name": name,
            "labels": {**(given.get("labels") or {}), **labels},
            "annotations": {**(given.get("annotations") or {}), **notes},
            "ownerReferences": [dict(owner)],
        },
        "spec": {**template["spec"], "entrypoint": f"{template['spec']['entrypoint']} {added}"},
    }


def submitted(rayjob: Mapping[str, Any]) -> Submitted:
    """What is so with a RayJob, as the API server gives it."""
    status: dict[str, Any] = rayjob.get("status") or {}
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    if deployment not in _ENDED:
        # KubeRay tries a failed job again as often as its backoffLimit says, and only then calls it failed.
        phase = Phase.RUNNING
    elif deployment == "Complete" and job not in ("FAILED", "STOPPED"):
        phase = Phase.SUCCEEDED
    else:
        phase = Phase.FAILED
    told = (status.get("reason"), status.get("message"))
    reason = ": ".join(str(part).strip() for part in told if part) if phase is Phase.FAILED else ""
    metadata: dict[str, Any] = rayjob["metadata"]
    created = str(metadata.get("creationTimestamp") or "")
    return Submitted(metadata["name"], phase, reason, created, (metadata.get("annotations") or {}).get(RUN, ""))


def decide(
    training: Training, jobs: Sequence[Submitted], journal: Journal | None, done: str | None, *, again: bool
) -> Decision:
    """Whether this training gets a RayJob now.

    Args:
        training: what is to be trained.
        jobs: every RayJob of it that there is.
        journal: what its last run has reached; None where there is none, or it has expired.
        done: its last run that is remembered to have come to its end.
        again: whether a person or a schedule wants it, though it may have been done or have failed.
    """
    newest = max(jobs, key=lambda job: (job.created, job.name), default=None)
    running = next((job for job in jobs if job.phase is Phase.RUNNING), None)
    if running is not None:
        return Decision(None, f"RayJob {running.name} trains this code on this data already")
    names = {job.name for job in jobs}
    if again:
        name = rayjob_name(training.model, training.key, names)
        if newest is not None and newest.phase is Phase.FAILED:
            # What failed is gone on with, be it only the release that is missing, or everything.
            return Decision(name, run=newest.run)
        return Decision(name, further=True)
    if newest is not None and newest.phase is Phase.FAILED:
        why = f" ({newest.reason})" if newest.reason else ""
        return Decision(None, f"RayJob {newest.name} of this code and data failed{why}; it is not repeated", _AGAIN)
    if newest is not None:
        return Decision(None, f"RayJob {newest.name} has trained this code on this data")
    if journal is not None and not journal.finished:
        epochs = len(journal.epochs)
        reason = (
            f"run {journal.run} of this code and data was begun ({epochs} epochs are done); no RayJob goes on with it"
        )
        return Decision(None, reason, _AGAIN, unfinished=True)
    finished = done if journal is None else journal.run
    if finished is not None:
        return Decision(None, f"run {finished} has trained this code on this data; there is nothing new", _AGAIN)
    return Decision(rayjob_name(training.model, training.key))


_AGAIN = "submit it with --again, which goes on with what failed or was begun, and repeats what is finished"


def is_name(text: str) -> bool:
    """Whether Kubernetes takes this as the name of a namespace."""
    return re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text) is not None
