"""Asking a model about images: over the gateway, at Triton itself, or in this process. The answer is the same.

Over the gateway it comes as it is. The other two ways decode the image with the same code, and render the outputs with
the same code as the gateway does.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from modelport.connection import Connection, Role
from modelport.contract.spec import SPEC_FILE, Precision, parse_spec
from modelport.errors import BadInput, ModelportError, Refused, Unavailable
from modelport.imaging import ImageError, Pixels, decode
from modelport.imaging import Reason as ImageReason
from modelport.objects import ObjectStore
from modelport.project import state_folder
from modelport.serving.answers import (
    ClassifyPrediction,
    DetectPrediction,
    Milliseconds,
    Outputs,
    SegmentPrediction,
    WrongOutputs,
    parse_prediction,
    render,
)
from modelport.serving.state import LoadedRelease, ReplicaState

if TYPE_CHECKING:
    from modelport.release import Release

SomePrediction: TypeAlias = SegmentPrediction | DetectPrediction | ClassifyPrediction
Ask: TypeAlias = Callable[[bytes, bool], SomePrediction]
"""Gives the answer to an image's file, on demand with an overlay. Raises `Unanswered` where another image may have one,
and any other `ModelportError` where none will."""

_SECONDS = 60.0
"""For which an answer is waited."""
_STATE_SECONDS = 5.0
_DIGITS = 64
"""Of a whole digest."""


class Via(StrEnum):
    """Who is asked."""

    GATEWAY = "gateway"
    TRITON = "triton"
    RELEASE = "release"
    """The release's graphs, in this process."""


@dataclass
class Unanswered(Exception):
    """This image has no answer."""

    reason: str
    """As the gateway names it."""
    message: str
    exit_code: int
    """Of the command line: whether the image is wrong or the model."""


@contextmanager
def asking(
    model: str,
    *,
    via: Via | None = None,
    release: str | None = None,
    precision: str | None = None,
    connection: Connection | None = None,
) -> Generator[Ask]:
    """A way to ask a model.

    Args:
        model: its name.
        via: who is asked; None: this process where `release` is a folder, else the gateway if the connection has one,
            else Triton if it has one.
        release: digest or its beginning, ``v7`` for MLflow's version 7, or folder of a release; None: what serves now.
        precision: arithmetic of a release in this process; None: what its ``model.yaml`` says, where it carries that.
            Servers have their own, and their answers name it.
        connection: the platform; None reads the connection file where one is needed.

    Raises:
        BadInput: there is no such model or release.
        Unavailable: who is asked is away.
        Refused: the connection has no key for it.
    """
    folder = Path(release) if release is not None and Path(release).is_dir() else None
    if folder is not None and via in (None, Via.RELEASE):
        yield _in_process(model, folder, precision)
        return
    connection = connection or Connection.load()
    via = via or _default(connection)
    if via is Via.RELEASE:
        yield _in_process(model, _fetched(model, release, connection), precision)
        return
    digest = None if release is None else _digest(model, release, folder, connection)
    if via is Via.TRITON:
        yield _at_triton(model, digest, connection)
        return
    if not connection.gateway_url:
        raise Unavailable("this connection names no gateway", key="gateway_url", remedy="ask with --via triton")
    headers = {"X-API-Key": connection.gateway_api_key or ""}
    with httpx.Client(base_url=connection.gateway_url, timeout=_SECONDS, trust_env=False, headers=headers) as client:
        yield lambda data, with_overlay: _over_gateway(client, model, digest, data, with_overlay)


def _default(connection: Connection) -> Via:
    if connection.gateway_url:
        return Via.GATEWAY
    return Via.TRITON if connection.triton_grpc and connection.agent_urls else Via.RELEASE


# --- the gateway ------------------------------------------------------------------------------------------------------


def _over_gateway(
    client: httpx.Client, model: str, digest: str | None, data: bytes, with_overlay: bool
) -> SomePrediction:
    query: dict[str, Any] = {"overlay": with_overlay} | ({} if digest is None else {"release": digest})
    try:
        response = client.post(f"/v1/models/{model}/predict", params=query, files={"image": ("image", data)})
    except httpx.HTTPError as error:
        raise Unavailable(
            f"the gateway at {client.base_url} does not answer: {error}", remedy="see `modelport local status`"
        ) from None
    try:
        if response.status_code == 200:
            return parse_prediction(response.content)
        problem = response.json()
        reason, message = str(problem["reason"]), str(problem["message"])
    except (ValidationError, ValueError, LookupError, TypeError):
        text = response.text[:200]
        raise ModelportError(
            f"{client.base_url} answered {response.status_code}, not as a gateway does: {text}"
        ) from None
    if reason in set(ImageReason):
        raise Unanswered(reason, message, BadInput.exit_code)
    if response.status_code in (502, 504):
        raise Unanswered(reason, message, ModelportError.exit_code)
    kind = {401: Refused, 404: BadInput, 422: BadInput, 503: Unavailable}.get(response.status_code, ModelportError)
    remedies = {401: "set gateway_api_key in the connection file", 503: "try again in a moment"}
    raise kind(f"the gateway answered {reason}: {message}", remedy=remedies.get(response.status_code))


# --- Triton -----------------------------------------------------------------------------------------------------------


def _at_triton(model: str, digest: str | None, connection: Connection) -> Ask:
    """Ask the release by its own name: the alias would not say which one answered."""
    from modelport.serving.agent.triton import TritonServer
    from modelport.serving.gateway.releases import choose

    heard = _heard(connection)
    view = choose(heard, {}).get(model)
    if view is None:
        raise BadInput(f"no replica knows a model {model!r}", remedy="see `modelport status`")
    found = view.asked_for(digest)
    if len(found) != 1:
        what = (
            "a release of it" if digest is None else f"{'a single' if found else 'a'} release that begins with {digest}"
        )
        why = f": {view.error}" if view.error else ""
        raise BadInput(f"no replica has {what} loaded{why}", key=model, remedy="see `modelport status`")
    servers = [(release, TritonServer(place, None)) for place, release in found[0].at.items()]

    def ask(data: bytes, with_overlay: bool) -> SomePrediction:
        failure: Unavailable | None = None
        for release, server in servers:

            def infer(image: Pixels, release: LoadedRelease = release, server: TritonServer = server) -> Outputs:
                return server.infer(release.triton_name, {"image": image})

            try:
                return _rendered(model, release, infer, data, with_overlay)
            except Unavailable as error:
                failure = error
        assert failure is not None
        raise failure

    return ask


def _heard(connection: Connection) -> list[Any]:
    """What every replica says of itself."""
    from modelport.serving.gateway.releases import Heard
    from modelport.serving.gateway.replicas import places, resolve

    if not connection.triton_grpc or not connection.agent_urls:
        key = "agent_urls" if connection.triton_grpc else "triton_grpc"
        raise Unavailable("this connection names no Triton and its agent", key=key, remedy="ask with --via gateway")
    heard: list[Heard] = []
    failure = "they have no address"
    with httpx.Client(timeout=_STATE_SECONDS, trust_env=False) as client:
        for place in places(connection.agent_urls, connection.triton_grpc):
            addresses = [] if place.name is None else asyncio.run(resolve(place.name))
            for replica in place.replicas(addresses):
                try:
                    answer = client.get(f"{replica.agent}/state").raise_for_status()
                    heard.append(Heard(replica.triton, ReplicaState.model_validate_json(answer.content)))
                except (httpx.HTTPError, ValidationError) as error:
                    failure = f"{replica.agent}: {error}"
    if not heard:
        raise Unavailable(f"no agent says what its Triton serves: {failure}", remedy="see `modelport local status`")
    return heard


# --- this process -----------------------------------------------------------------------------------------------------


def _in_process(model: str, place: Path, precision: str | None) -> Ask:
    from modelport.release import Release, Runtime

    release = Release.open(place)
    manifest = release.manifest
    if manifest.model != model:
        raise BadInput(f"is a release of {manifest.model}, not of {model}", file=place)
    precision = precision or _own_precision(release)
    loaded = LoadedRelease(
        digest=release.digest,
        triton_name="",
        task=manifest.task,
        classes=manifest.classes,
        thresholds=manifest.thresholds,
        precision=Precision(precision),
    )
    runtime = Runtime(release, precision=precision)

    def infer(image: Pixels) -> dict[str, NDArray[Any]]:
        try:
            return runtime.predict(image)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise _Failed(str(error)) from error

    return lambda data, with_overlay: _rendered(model, loaded, infer, data, with_overlay)


def _own_precision(release: "Release") -> Precision:
    """What a server without a GPU and without other orders would serve; of what the release does not carry, fp32."""
    spec = parse_spec(release.read(SPEC_FILE).decode(), release.folder / SPEC_FILE)
    return spec.serve.precision if spec.serve.precision in release.manifest.precisions else Precision.FP32


class _Failed(ModelportError):
    """A graph failed on an input."""


def _fetched(model: str, name: str | None, connection: Connection) -> Path:
    """Verified local folder of a release: a promoted one, or one of staging where the connection may read that."""
    from modelport.promotion import desired, read_log
    from modelport.promotion.catalogue import is_released, staged_releases
    from modelport.release import RELEASES, Release, staging_prefix

    released = _store(connection, Role.SERVER, Role.PROMOTER)
    staging = _store(connection, Role.TRAINER, Role.PROMOTER)
    log = None if released is None else read_log(released, model)
    if name is None:
        if released is None:
            connection.key_for(Role.SERVER)
        digest = None if log is None else desired(log)
        if digest is None:
            raise BadInput("nothing of this model is promoted", key=model, remedy="name one with --release")
    elif len(digest := _digest(model, name, None, connection)) < _DIGITS:
        known = set() if log is None else set(log.promoted)
        known |= set() if staging is None else {row.digest for row in staged_releases(staging, model)}
        found = [each for each in known if each.startswith(digest)]
        if len(found) != 1:
            how_many = "more than one release" if found else "no release"
            remedy = f"see `modelport versions {model}`"
            raise BadInput(f"{how_many} of {model} begins with {name!r}", key="--release", remedy=remedy)
        digest = found[0]
    cache = state_folder() / "cache" / "releases" / digest
    if released is not None and is_released(released, digest):
        return Release.fetch(released, RELEASES, digest, cache).folder
    if staging is None:
        raise Refused(
            f"release {digest[:12]} of {model} is not promoted, and this connection may not read staging",
            remedy="run this with a connection file that holds the trainer's key",
        )
    return Release.fetch(staging, staging_prefix(model), digest, cache).folder


def _store(connection: Connection, *roles: Role) -> ObjectStore | None:
    """The object store as the first of these identities that the connection has."""
    return next((ObjectStore.connect(connection, role) for role in roles if role in connection.s3_keys), None)


def _digest(model: str, name: str, folder: Path | None, connection: Connection) -> str:
    """Digest, or its beginning, that a name of a release means."""
    from modelport.promotion.numbering import NUMBER, digest_of
    from modelport.release import Release

    if folder is not None:
        return Release.open(folder).digest
    if NUMBER.fullmatch(name):
        return digest_of(_store(connection, Role.SERVER, Role.PROMOTER), model, name, connection)
    if not re.fullmatch(r"[0-9a-f]{6,64}", name):
        remedy = "write a digest or at least 6 digits of its beginning, v7, or the folder of a release"
        raise BadInput(f"{name!r} names no release", key="--release", remedy=remedy)
    return name


def _rendered(
    model: str, release: LoadedRelease, infer: Callable[[Pixels], Outputs], data: bytes, with_overlay: bool
) -> SomePrediction:
    from modelport.serving.client import TritonRefused, UnknownModel

    started = time.perf_counter()
    try:
        image = decode(data)
        decoded = time.perf_counter()
        outputs = infer(image)
        inferred = time.perf_counter()
        answer = render(release.task, outputs, image, release, with_overlay)
    except ImageError as error:
        raise Unanswered(error.reason.value, error.message, error.exit_code) from None
    except WrongOutputs as error:
        message = f"the model gave what is no answer: {error.message}"
        raise Unanswered("wrong_outputs", message, error.exit_code) from None
    except UnknownModel as error:
        raise Unavailable(error.message, remedy="it was just replaced; ask again") from None
    except (TritonRefused, _Failed) as error:
        raise Unanswered("inference_failed", error.message, error.exit_code) from None
    moments = np.diff([started, decoded, inferred, time.perf_counter()]) * 1000
    milliseconds = Milliseconds(
        decode=round(float(moments[0]), 3), inference=round(float(moments[1]), 3), total=round(float(moments.sum()), 3)
    )
    return answer.complete(
        model=model, release=release, image=image, request_id=uuid.uuid4().hex, milliseconds=milliseconds
    )
