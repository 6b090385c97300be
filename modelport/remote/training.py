"""Training in a stack's cluster from a checkout: its code, committed or not, as a RayJob that is followed.

What trains is the template that the stack has for the model: resources, nodes and image are the stack's. The bundle
travels as a ConfigMap named by RayJob and content, which goes when the RayJob does. The RayJob comes first, since its
UID is what the ConfigMap is tied to; its pods wait for their volume. If we are killed in between, the same command
brings what is missing.
"""

import base64
import hashlib
import json
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from modelport.connection import Connection
from modelport.errors import (
    BadInput,
    Conflict,
    GateFailed,
    ModelportError,
    Refused,
    Unavailable,
)
from modelport.remote.cluster import Forbidden, KubernetesCluster, NotThere, own_kubeconfig
from modelport.training import rayjob
from modelport.training.rayjob import Phase, Submitted, Training
from modelport.training.submit import Command, Submission, submit

TEMPLATE_FILE = "rayjob.json"
BUNDLE_FILE = "bundle.tar.gz"
_ID_LENGTH = 10
_GONE_S = 60.0
_PAUSE_S = 2.0
_AWAY_S = 300.0
_OVERLAP_S = 30
"""Lines are asked for again so far back: a request may take that much longer than the one before."""
_SUBMITTER = "batch.kubernetes.io/job-name"
_CLUSTER = "ray.io/cluster"
_EXIT_CODE = re.compile(r"exit code (\d+)")

Read = Callable[[Sequence[str], str], Command]
"""Reads the arguments of a `modelport train` command; the second is where they stand, for messages."""


@dataclass(frozen=True)
class Followed:
    """A training that has ended."""

    rayjob: str | None
    """None where there was nothing to do."""
    message: str


def train(
    model: str,
    bundle: bytes,
    given: Sequence[str],
    read: Read,
    *,
    connection: Connection,
    again: bool,
    tell: Callable[[str], None],
) -> Followed:
    """Train a packed model folder in the cluster of `connection`, and follow it to its end.

    Args:
        model: name of the model.
        bundle: its code.
        given: arguments of `modelport train` beyond those of the stack's template.
        read: reads such arguments.
        connection: with the trainer's identity, and a cluster.
        again: go on with what failed, or train once more.
        tell: takes each line for people.

    Raises:
        ModelportError: the training failed; of the kind that its exit code means.
        BadInput: the stack does not know the model, or there is no such data.
        Conflict: the model is being taken out of the stack.
        Refused: the user may not train there.
        Unavailable: the cluster does not answer.
        Detached: interrupted; the training goes on.
    """
    assert connection.cluster is not None
    place = connection.cluster
    cluster = KubernetesCluster(own_kubeconfig(place.kubeconfig), place.context)
    template, file = find_template(cluster, place.namespace, model)
    if given:
        template = with_arguments(template, given)
    jobs = BundledRayJobs(cluster, place.namespace, bundle, mounted_path(template, file))
    command = read(rayjob.train_arguments(template, file), file)
    submission = submit_bundle(model, template, bundle, command, jobs, connection, again)
    tell(submission.message)
    name = submission.rayjob or jobs.running()
    if name is None:
        return Followed(None, nothing_done(model, jobs, submission))
    if submission.rayjob is None:
        jobs.mend(name)
    try:
        ended = follow(JobView(cluster, place.namespace, name), tell)
    except KeyboardInterrupt:
        raise Detached(model, name, place.namespace, cluster.arguments()) from None
    if ended.phase is Phase.FAILED:
        raise failure(name, ended.reason)
    return Followed(name, f"RayJob {name} has succeeded")


class Detached(ModelportError):
    """Nobody follows the training any more; it goes on."""

    exit_code = 130

    def __init__(self, model: str, name: str, namespace: str, arguments: Sequence[str]) -> None:
        stop = shlex.join(["kubectl", *arguments, f"--namespace={namespace}", "delete", "rayjob", name])
        super().__init__(
            f"not followed any more; RayJob {name} goes on",
            remedy=f"follow it with the same command (`modelport train {model}`), or stop it: {stop}",
        )


def submit_bundle(
    model: str,
    template: dict[str, Any],
    bundle: bytes,
    command: Command,
    jobs: "BundledRayJobs",
    connection: Connection,
    again: bool,
) -> Submission:
    """See `modelport.training.submit.submit`, with a bundle that is no file yet."""
    with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
        file = Path(folder) / BUNDLE_FILE
        file.write_bytes(bundle)
        return submit(model, template, file, command, connection=connection, rayjobs=jobs, again=again)


def nothing_done(model: str, jobs: "BundledRayJobs", submission: Submission) -> str:
    """What to say where no RayJob was made and none runs.

    Raises:
        BadInput: there is no data to train on.
        ModelportError: the last RayJob failed, or it was deleted before its end.
    """
    if jobs.asked is None:
        raise BadInput(f"{model} cannot be trained: the stack has no version of its dataset", remedy=_push(submission))
    newest = max(jobs.all(), key=lambda job: (job.created, job.name), default=None)
    if newest is not None and newest.phase is Phase.FAILED:
        raise ModelportError(
            f"RayJob {newest.name} of this code and data failed: {newest.reason or 'it does not say why'}",
            remedy=f"`modelport train {model} --again` goes on with it",
        )
    if submission.unfinished:
        raise ModelportError(
            "this code is not trained on this data: it was begun, and stopped before its end",
            remedy=f"`modelport train {model} --again` goes on after its last checkpoint",
        )
    return f"see `modelport versions {model}`"


def _push(submission: Submission) -> str:
    return submission.message.rpartition("\n")[2]


def failure(name: str, reason: str) -> ModelportError:
    """The error that a failed training is: of the kind that its command ended with, as on a laptop."""
    match = _EXIT_CODE.search(reason)
    kinds = {kind.exit_code: kind for kind in (BadInput, GateFailed, Conflict, Unavailable, Refused)}
    kind = kinds.get(int(match[1]), ModelportError) if match else ModelportError
    return kind(f"RayJob {name} failed: {reason or 'it does not say why'}")


# --- the template and the bundle --------------------------------------------------------------------------------------


def find_template(cluster: KubernetesCluster, namespace: str, model: str) -> tuple[dict[str, Any], str]:
    """The RayJob that a stack has for a model, and where it is.

    Raises:
        BadInput: it has none.
    """
    name = f"{model.replace('_', '-')}-rayjob"
    place = f"ConfigMap {namespace}/{name}"
    try:
        data, _ = cluster.config_map(namespace, name)
    except NotThere:
        raise BadInput(
            f"the stack does not know how to train {model!r}",
            key=place,
            remedy="`pulumi up` makes that for every folder under models/; it gives it nodes and resources",
        ) from None
    return rayjob.read_template(data.get(TEMPLATE_FILE, ""), place), place


def with_arguments(template: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The template with further arguments of its command."""
    spec: dict[str, Any] = template["spec"]
    return {**template, "spec": {**spec, "entrypoint": f"{spec['entrypoint']} {shlex.join(given)}"}}


def mounted_path(template: Mapping[str, Any], file: str) -> str:
    """Where the template's command finds the bundle."""
    words = rayjob.train_arguments(template, file)
    if "--bundle" not in words[:-1]:
        raise BadInput("gives no --bundle", file=file, key="spec.entrypoint", remedy="run `pulumi up` again")
    return words[words.index("--bundle") + 1]


def with_bundle(job: Mapping[str, Any], path: str, name: str) -> dict[str, Any]:
    """The RayJob with another ConfigMap in the place of its bundle, in every pod.

    Raises:
        BadInput: no pod mounts a bundle there.
    """
    replaced = 0

    def visit(value: Any) -> Any:
        nonlocal replaced
        if isinstance(value, list):
            return [visit(item) for item in cast(list[Any], value)]
        if not isinstance(value, dict):
            return value
        found = {key: visit(item) for key, item in cast(dict[str, Any], value).items()}
        source: Any = found.get("configMap")
        if isinstance(source, dict):
            config = cast(dict[str, Any], source)
            items: list[dict[str, Any]] = config.get("items") or []
            if any(path.endswith(f"/{item.get('path')}") for item in items):
                replaced += 1
                entries = [{**item, "key": BUNDLE_FILE} for item in items]
                found["configMap"] = {**config, "name": name, "items": entries}
        return found

    made: dict[str, Any] = visit(job)
    if not replaced:
        raise BadInput("no pod of the template mounts a bundle", key=path, remedy="run `pulumi up` again")
    return made


def bundle_map(name: str, namespace: str, owner: Mapping[str, Any], bundle: bytes) -> dict[str, Any]:
    """The ConfigMap of a bundle, which goes with its RayJob."""
    metadata: dict[str, Any] = owner["metadata"]
    reference = {
        "apiVersion": f"{rayjob.GROUP}/{rayjob.VERSION}",
        "kind": rayjob.KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    labels: dict[str, str] = metadata.get("labels") or {}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [reference]},
        "immutable": True,
        "binaryData": {BUNDLE_FILE: base64.b64encode(bundle).decode()},
    }


class BundledRayJobs:
    """RayJobs of a namespace, each with the bundle that it trains."""

    def __init__(self, cluster: KubernetesCluster, namespace: str, bundle: bytes, path: str) -> None:
        self.asked: Training | None = None
        """The training that was asked for last."""
        self._cluster = cluster
        self._namespace = namespace
        self._bundle = bundle
        self._path = path

    def of(self, training: Training) -> Sequence[Submitted]:
        """See `modelport.training.submit.RayJobs.of`."""
        self.asked = training
        return self.all()

    def all(self) -> list[Submitted]:
        """Those of the training that was asked for."""
        if self.asked is None:
            return []
        selector = f"{rayjob.TRAINING_LABEL}={self.asked.short_key}"
        return [rayjob.submitted(item) for item in self._cluster.ray_jobs(self._namespace, selector)]

    def running(self) -> str | None:
        """Name of the one that runs, or waits to."""
        return next((job.name for job in self.all() if job.phase is Phase.RUNNING), None)

    def owner(self, account: str) -> dict[str, Any]:
        """See `modelport.training.submit.RayJobs.owner`."""
        place = f"ServiceAccount {self._namespace}/{account}"
        try:
            return rayjob.owner_reference(self._cluster.service_account(self._namespace, account), place)
        except NotThere:
            raise rayjob.no_account(place) from None
        except Forbidden as error:
            raise rayjob.no_right(place, error.message) from None

    def create(self, body: dict[str, Any]) -> None:
        """See `modelport.training.submit.RayJobs.create`."""
        name = self._map_name(body["metadata"]["name"])
        made = self._cluster.create_ray_job(self._namespace, with_bundle(body, self._path, name))
        self._give(made, name)

    def mend(self, name: str) -> None:
        """Give a RayJob its bundle, if it was made from this checkout and whoever made it did not get to that."""
        job = self._cluster.ray_job(self._namespace, name)
        wanted = self._map_name(name)
        if wanted in json.dumps(job["spec"]):
            self._give(job, wanted)

    def _map_name(self, job: str) -> str:
        return f"{job}-{hashlib.sha256(self._bundle).hexdigest()[:_ID_LENGTH]}"

    def _give(self, job: Mapping[str, Any], name: str) -> None:
        uid: str = job["metadata"]["uid"]
        deadline = time.monotonic() + _GONE_S
        while True:
            try:
                self._cluster.create_config_map(self._namespace, bundle_map(name, self._namespace, job, self._bundle))
                return
            except Conflict as conflict:
                try:
                    if uid in self._cluster.config_map_owners(self._namespace, name):
                        return
                except NotThere:
                    continue
                # That of a RayJob of the same name that was just deleted: it is on its way out.
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"ConfigMap {name} belongs to an earlier RayJob and does not go: {conflict.message}",
                        remedy="delete it, and run the same command again",
                    ) from None
                time.sleep(_PAUSE_S)


# --- following --------------------------------------------------------------------------------------------------------


class View(Protocol):
    """What is to be seen of a RayJob."""

    def job(self) -> dict[str, Any]:
        """As the API server gives it."""
        ...

    def pods(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Its pods, the oldest first."""
        ...

    def lines(self, pod: str, seconds: int | None) -> list[str]:
        """Lines of a pod's log, times in front; of the last `seconds`, or all."""
        ...


class JobView:
    """A RayJob in a cluster."""

    def __init__(self, cluster: KubernetesCluster, namespace: str, name: str) -> None:
        self._cluster, self._namespace, self._name = cluster, namespace, name

    def job(self) -> dict[str, Any]:
        """See `View.job`."""
        return self._cluster.ray_job(self._namespace, self._name)

    def pods(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `View.pods`."""
        found = self._cluster.pods(self._namespace, f"{_SUBMITTER}={self._name}")
        ray: str = (job.get("status") or {}).get("rayClusterName") or ""
        return [*(self._cluster.pods(self._namespace, f"{_CLUSTER}={ray}") if ray else ()), *found]

    def lines(self, pod: str, seconds: int | None) -> list[str]:
        """See `View.lines`."""
        return self._cluster.log(self._namespace, pod, seconds)


def follow(view: View, tell: Callable[[str], None], pause: float = _PAUSE_S, away: float = _AWAY_S) -> Submitted:
    """Tell how a RayJob goes, until it has ended: its phases, what its pods wait for, what its command prints.

    Args:
        view: what is to be seen of it.
        tell: takes each line.
        pause: seconds between looks.
        away: seconds that the cluster may not answer.

    Raises:
        ModelportError: it was deleted.
        Unavailable: the cluster does not answer for too long.
    """
    told: set[str] = set()
    phase = ""
    log = Log(view, tell)
    answered = time.monotonic()
    while True:
        try:
            job = view.job()
            status: dict[str, Any] = job.get("status") or {}
            now = _phase(status)
            if now != phase:
                phase = now
                tell(f"-- {phase}")
            ended = rayjob.submitted(job)
            # Looked at before the log, so that what was printed last is in it.
            pods = view.pods(job)
            for line in waiting(pods):
                if line not in told:
                    told.add(line)
                    tell(f"-- {line}")
            try:
                log.go_on(pods)
            except ModelportError as error:
                # How it goes is told by its status too.
                if error.message not in told:
                    told.add(error.message)
                    tell(f"-- its log cannot be read: {error.message}")
            if ended.phase is not Phase.RUNNING:
                return ended
            answered = time.monotonic()
        except NotThere:
            raise ModelportError(
                "the RayJob was deleted", remedy="the same command with --again goes on after its last checkpoint"
            ) from None
        except Unavailable as error:
            if time.monotonic() - answered > away:
                raise
            if error.message not in told:
                told.add(error.message)
                tell(f"-- {error.message}; trying again")
        time.sleep(pause)


class Log:
    """What a RayJob's command prints: the log of the newest pod that submits it, each line once."""

    def __init__(self, view: View, tell: Callable[[str], None]) -> None:
        self._view = view
        self._tell = tell
        self._pod = ""
        self._looked: float | None = None
        self._last: tuple[str, set[str]] = ("", set())

    def go_on(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Tell what is new."""
        started = [pod for pod in pods if _SUBMITTER in _labels(pod) and _has_log(pod)]
        if not started:
            return
        pod: str = started[-1]["metadata"]["name"]
        if pod != self._pod:
            self._pod, self._looked, self._last = pod, None, ("", set())
        looked = time.monotonic()
        # By how long ago we looked and not by the clock, which need not be that of the node.
        ago = None if self._looked is None else int(looked - self._looked) + _OVERLAP_S
        try:
            lines = self._view.lines(pod, ago)
        except (NotThere, BadInput):
            return  # it has just gone, or not begun
        self._looked = looked
        fresh, self._last = new_lines(lines, self._last)
        for line in fresh:
            self._tell(line)


def new_lines(lines: Sequence[str], last: tuple[str, set[str]]) -> tuple[list[str], tuple[str, set[str]]]:
    """The lines that come after the last ones, without their times; and which are the last ones now. Pure.

    Args:
        lines: each with its time in front, all written alike, in order.
        last: the newest time that was seen, and the lines of that time.
    """
    moment, same = last
    fresh: list[str] = []
    for line in lines:
        time_of, _, text = line.partition(" ")
        if time_of < moment or (time_of == moment and line in same):
            continue
        if time_of != moment:
            moment, same = time_of, set()
        same = {*same, line}
        fresh.append(text)
    return fresh, (moment, same)


def waiting(pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """Why pods do not run yet, or not any more. Pure."""
    found: list[str] = []
    for pod in pods:
        name: str = pod["metadata"]["name"]
        status: dict[str, Any] = pod.get("status") or {}
        found += [
            f"pod {name} waits: {condition.get('message') or condition.get('reason')}"
            for condition in status.get("conditions") or ()
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False"
        ]
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            state: dict[str, Any] = container.get("state") or {}
            why: dict[str, Any] = state.get("waiting") or {}
            if why.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                found.append(f"pod {name} waits: {why['reason']} {why.get('message') or ''}".rstrip())
    return found


def _phase(status: Mapping[str, Any]) -> str:
    """How far it is, in Ray's and KubeRay's words."""
    deployment, job = status.get("jobDeploymentStatus") or "waiting for KubeRay", status.get("jobStatus") or ""
    return f"{deployment} ({job})" if job else str(deployment)


def _labels(pod: Mapping[str, Any]) -> dict[str, str]:
    return pod["metadata"].get("labels") or {}


def _has_log(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")
