"""Submitting a training to a cluster: at most one RayJob for each pair of code and data.

The name of the RayJob is made of the pair, and the API server gives each name once. However many submit at the same
time, one of them creates it and the others are told.
"""

import json
import os
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from modelport.connection import Connection, Role
from modelport.contract import unpack_model
from modelport.data import dataset_uri, pinned
from modelport.errors import BadInput, Conflict, ModelportError, Refused, Unavailable
from modelport.objects import ObjectStore
from modelport.training import rayjob
from modelport.training.harness import find_run
from modelport.training.identity import ordered_spec, run_key
from modelport.training.memory import remembered
from modelport.training.rayjob import Submitted, Training

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TIMEOUT_S = 20


@dataclass(frozen=True)
class Command:
    """What the template's entrypoint says of the training."""

    data_uri: str | None = None
    overrides: tuple[str, ...] = ()
    workers: int | None = None


@dataclass(frozen=True)
class Submission:
    """What came of it."""

    rayjob: str | None
    """Name of the RayJob that was created; None where none was needed, or possible."""
    message: str
    """What to tell a person."""
    unfinished: bool = False
    """Whether the training was begun, and nothing goes on with it."""


class RayJobs(Protocol):
    """The RayJobs of a namespace."""

    def of(self, training: Training) -> Sequence[Submitted]:
        """Those of one training."""
        ...

    def owner(self, account: str) -> dict[str, Any]:
        """Reference to the service account that a RayJob goes with; see `rayjob.owner_reference`.

        Raises:
            BadInput: it is not there.
            Conflict: it is being deleted.
            Refused: this identity may not look at it.
        """
        ...

    def create(self, body: dict[str, Any]) -> None:
        """Create one.

        Raises:
            Conflict: there is one of this name.
        """
        ...


def submit(
    model: str,
    template: dict[str, Any],
    bundle: Path,
    command: Command,
    *,
    connection: Connection,
    rayjobs: RayJobs,
    again: bool = False,
) -> Submission:
    """Create the RayJob of a training, unless it has one or was done; with `again` also if it was done, or failed.

    Args:
        model: name of the model.
        template: RayJob, as `rayjob.read_template` gives it.
        bundle: the packed model folder.
        command: what the template's entrypoint says.
        connection: the platform, with the trainer's identity.
        rayjobs: where to look and to create.
        again: go on with what failed, or train once more.

    Raises:
        BadInput: the bundle or the template makes no sense.
        Unavailable: the object store or the API server is away.
        Conflict: the model is being taken out of the stack.
        Refused: an identity lacks a right.
    """
    store = ObjectStore.connect(connection, Role.TRAINER)
    with tempfile.TemporaryDirectory(prefix="modelport-") as temporary:
        folder = unpack_model(bundle, model, Path(temporary))
        spec = ordered_spec(folder.spec, command.overrides, command.workers)
        code = folder.bundle().digest
    address = pinned(store, command.data_uri or dataset_uri(store.bucket, spec.data.name))
    if address is None or address.digest is None:
        return Submission(
            None,
            f"{model} is not trained yet: there is no dataset {spec.data.name!r} on {connection.s3_endpoint}\n"
            f"push one with: modelport data push {spec.data.name} PATH",
        )
    key = run_key(spec, code, address.digest, spec.train.workers.count)
    uri = dataset_uri(address.bucket, address.name, address.digest)
    training = Training(model, key, code, uri, address.digest)
    done = remembered(store, model, key)
    last, checkpoints = find_run(Path(), model, key, store, again=False, done=done)
    decision = rayjob.decide(training, rayjobs.of(training), checkpoints.read(), done, again=again)
    if decision.name is None:
        message = "\n".join(filter(None, (decision.reason, decision.remedy)))
        return Submission(None, message, decision.unfinished)
    run = decision.run or last
    if decision.further:
        run, _ = find_run(Path(), model, key, store, again=True, done=done)
    owner = rayjobs.owner(rayjob.service_account(template))
    try:
        rayjobs.create(rayjob.render(template, training, decision.name, run, owner))
    except Conflict:
        return Submission(None, f"RayJob {decision.name} was created by somebody else at the same time")
    return Submission(decision.name, f"RayJob {decision.name} trains {model}: run {run} on {uri}")


class ClusterRayJobs:
    """RayJobs of a real cluster: of the pod's own, or of the current context of the kubeconfig."""

    def __init__(self, namespace: str | None, template: dict[str, Any]) -> None:
        """Connect; the namespace is the given one, the template's, the pod's own or the context's, in this order.

        Raises:
            Unavailable: there is no cluster to be found.
            BadInput: the name of the namespace makes no sense.
        """
        from kubernetes import client, config
        from kubernetes.config import ConfigException

        context: str | None = None
        try:
            config.load_incluster_config()
            own = _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.is_file() else None
        except ConfigException:
            own = None
            try:
                # The client takes KUBECONFIG as it was when it was imported, where it is not told.
                file = os.environ.get("KUBECONFIG") or None
                config.load_kube_config(file)
                active: Any = config.list_kube_config_contexts(file)[1]
                context = active["context"].get("namespace")
            except (ConfigException, OSError) as error:
                raise Unavailable(
                    f"no cluster is to be found: {error}",
                    remedy="run this in a pod whose service account may create RayJobs, or set KUBECONFIG",
                ) from None
        self._namespace = namespace or template["metadata"].get("namespace") or own or context or "default"
        if not rayjob.is_name(self._namespace):
            raise BadInput(f"{self._namespace!r} is no namespace", key="--namespace")
        self._client: Any = client.ApiClient()
        self._core: Any = client.CoreV1Api(self._client)
        self._api: Any = client.CustomObjectsApi(self._client)
        self._place = {
            "group": rayjob.GROUP,
            "version": rayjob.VERSION,
            "namespace": self._namespace,
            "plural": rayjob.PLURAL,
            "_request_timeout": _TIMEOUT_S,
        }

    def of(self, training: Training) -> Sequence[Submitted]:
        """See `RayJobs.of`."""
        selector = f"{rayjob.TRAINING_LABEL}={training.short_key}"
        with self._explained(lambda error: self._translated(error, "list")):
            found: Any = self._api.list_namespaced_custom_object(**self._place, label_selector=selector)
        return [rayjob.submitted(item) for item in found["items"]]

    def owner(self, account: str) -> dict[str, Any]:
        """See `RayJobs.owner`."""
        place = f"serviceaccounts/{account} in namespace {self._namespace}"
        with self._explained(lambda error: _no_owner(error, place)):
            found: Any = self._core.read_namespaced_service_account(
                account, self._namespace, _request_timeout=_TIMEOUT_S
            )
        return rayjob.owner_reference(self._client.sanitize_for_serialization(found), place)

    def create(self, body: dict[str, Any]) -> None:
        """See `RayJobs.create`."""
        with self._explained(lambda error: self._translated(error, "create")):
            self._api.create_namespaced_custom_object(**self._place, body=body)

    @contextmanager
    def _explained(self, translated: Callable[[Any], ModelportError]) -> Generator[None]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            raise translated(error) from None
        except HTTPError as error:
            raise Unavailable(
                f"the API server did not answer: {error}", remedy="the same command can be run again"
            ) from None

    def _translated(self, error: Any, action: str) -> ModelportError:
        said = _message(error)
        place = f"{rayjob.PLURAL}.{rayjob.GROUP} in namespace {self._namespace}"
        if error.status == 409 and action == "create" and _reason(error) == "AlreadyExists":
            return Conflict(said, key=place)
        if error.status in (401, 403):
            remedy = "give this service account the verbs get, list and create on rayjobs of ray.io there"
            return Refused(f"may not {action}: {said}", key=place, remedy=remedy)
        if error.status == 404:
            return Unavailable(f"the cluster has none: {said}", key=place, remedy="KubeRay's operator brings them")
        if error.status in (400, 422):
            return BadInput(f"the template is refused: {said}", key=place)
        return Unavailable(f"could not {action}: {said}", key=place, remedy="the same command can be run again")


def _no_owner(error: Any, place: str) -> ModelportError:
    said = _message(error)
    if error.status in (401, 403):
        return rayjob.no_right(place, f"may not get: {said}")
    if error.status == 404:
        return rayjob.no_account(place)
    return Unavailable(f"could not get: {said}", key=place, remedy="the same command can be run again")


def _answer(error: Any) -> dict[str, Any]:
    try:
        body: Any = json.loads(error.body)
    except (TypeError, ValueError):
        return {}
    return cast(dict[str, Any], body) if isinstance(body, dict) else {}


def _message(error: Any) -> str:
    return str(_answer(error).get("message") or error.reason or error.status)


def _reason(error: Any) -> str:
    return str(_answer(error).get("reason") or "")
