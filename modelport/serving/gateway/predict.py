"""One prediction, from the upload to the answer and its record."""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import Request, Response
from numpy.typing import NDArray

from modelport.errors import ModelportError, Unavailable
from modelport.imaging import ImageError, Pixels, decode, pixel_count
from modelport.serving.answers import RENDERERS, Answer, Milliseconds, WrongOutputs, render
from modelport.serving.client import TritonRefused, UnknownModel
from modelport.serving.gateway.parts import Gateway
from modelport.serving.gateway.problems import IMAGE_STATUS, ProblemError, Reason
from modelport.serving.gateway.records import Record, summary_json
from modelport.serving.gateway.releases import Loaded
from modelport.serving.gateway.triton import DeadlineExceeded, tensors
from modelport.serving.gateway.uploads import read_image
from modelport.serving.state import LoadedRelease

log = logging.getLogger("modelport.gateway")

_MODEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_DISCONNECTED = 499

T = TypeVar("T")


@dataclass
class _Draft:
    """What becomes the record."""

    request_id: str
    caller: str
    model: str
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    release: str | None = None
    precision: str | None = None
    input_sha256: str | None = None
    input_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    summary: str | None = None
    decode_ms: float | None = None
    inference_ms: float | None = None
    total_ms: float | None = None


@dataclass(frozen=True)
class Asked:
    """What a caller may choose."""

    overlay: bool = False
    release: str | None = None
    """Beginning of a loaded release's digest; None: the one that answers now."""


async def predict(gateway: Gateway, request: Request, caller: str, model: str, asked: Asked) -> Response:
    """Answer one request and leave its record, whatever happens.

    Raises:
        ProblemError: there is no answer.
    """
    draft = _Draft(request.state.request_id, caller, model)
    status, reason = 500, Reason.INTERNAL
    try:
        async with gateway.admission.place():
            response = await _answered(gateway, request, draft, asked)
        status, reason = 200, None
        return response
    except ProblemError as error:
        status, reason = error.status, error.reason
        raise
    finally:
        known = model in gateway.table.models
        gateway.metrics.requests.labels(model if known else "", str(status), reason or "").inc()
        if _MODEL_NAME.fullmatch(model):
            _record(gateway, draft, status, reason)


async def _answered(gateway: Gateway, request: Request, draft: _Draft, asked: Asked) -> Response:
    settings = gateway.settings
    await _chosen(gateway, draft.model, asked.release)  # before the upload is read: nobody sends megabytes for a 404
    data = await read_image(request, settings.max_bytes, settings.upload_seconds)
    draft.input_bytes = len(data)
    async with gateway.admission.pixels(await _in_thread(gateway, lambda: _pixels(data, gateway))):
        return await _predicted(gateway, draft, data, asked)


async def _predicted(gateway: Gateway, draft: _Draft, data: bytes, asked: Asked) -> Response:
    started = time.perf_counter()
    decoded = await _in_thread(gateway, lambda: _decoded(data, gateway))
    draft.input_sha256 = decoded.sha256
    if isinstance(decoded.image, ImageError):
        error = decoded.image
        raise ProblemError(IMAGE_STATUS[error.reason], Reason(error.reason.value), error.message)
    image = decoded.image
    height, width = image.shape[:2]
    draft.height, draft.width = height, width
    draft.decode_ms = _since(started)
    sent = time.perf_counter()
    release, outputs = await _inferred(gateway, draft, decoded.inputs, asked.release)
    draft.release, draft.precision = release.digest, release.precision.value
    draft.inference_ms = _since(sent)

    def work() -> Answer:
        return render(release.task, outputs, image, release, asked.overlay)

    try:
        answer = await _in_thread(gateway, work)
    except WrongOutputs as error:
        log.error("request %s: release %s of %s: %s", draft.request_id, release.digest, draft.model, error.message)
        message = f"the model gave what is no answer: {error.message}"
        raise ProblemError(502, Reason.WRONG_OUTPUTS, message) from None
    draft.summary = summary_json(answer.summary)
    gateway.metrics.answers.labels(draft.model, release.digest[:12], release.precision.value).inc()
    if answer.summary.get("unsure"):
        gateway.metrics.unsure.labels(draft.model).inc()
    draft.total_ms = _since(started)
    milliseconds = Milliseconds(decode=draft.decode_ms or 0.0, inference=draft.inference_ms, total=draft.total_ms)
    for phase, value in milliseconds:
        gateway.metrics.seconds.labels(draft.model, phase).observe(value / 1000)
    body = answer.complete(
        model=draft.model, release=release, image=image, request_id=draft.request_id, milliseconds=milliseconds
    )
    return Response(body.model_dump_json(exclude_none=True), media_type="application/json")


@dataclass(frozen=True)
class _Decoded:
    sha256: str
    image: Pixels | ImageError
    inputs: list[Any]


def _pixels(data: bytes, gateway: Gateway) -> int:
    try:
        return pixel_count(data, gateway.settings.limits)
    except ImageError:
        return 0  # decoding it says what is wrong


def _decoded(data: bytes, gateway: Gateway) -> _Decoded:
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data, gateway.settings.limits)
    except ImageError as error:
        return _Decoded(digest, error, [])
    return _Decoded(digest, image, tensors({"image": image}))


async def _in_thread(gateway: Gateway, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(gateway.threads, work)


async def _chosen(gateway: Gateway, model: str, wanted: str | None) -> Loaded:
    """The release to ask, and the Tritons that have it; looks anew before it says that there is none."""
    for attempt in range(2):
        view = gateway.table.view(model)
        if view is not None and (chosen := view.asked_for(wanted)):
            if len(chosen) > 1:
                message = f"{len(chosen)} loaded releases of {model} begin with {wanted}; write more of the digest"
                raise ProblemError(422, Reason.AMBIGUOUS_RELEASE, message)
            if chosen[0].release.task not in RENDERERS:
                message = f"this gateway has no answer for the task {chosen[0].release.task} yet"
                raise ProblemError(503, Reason.NO_RELEASE_READY, message, retry_after=60)
            return chosen[0]
        if attempt == 0:
            await gateway.table.refresh()
    view = gateway.table.view(model)
    if view is None:
        raise ProblemError(404, Reason.UNKNOWN_MODEL, f"there is no model {model!r}; GET /v1/models lists them")
    if view.loaded and gateway.table.heard_all:
        message = f"no loaded release of {model} begins with {wanted}; GET /v1/models/{model} lists those that are"
        raise ProblemError(404, Reason.UNKNOWN_RELEASE, message)
    why = f": {view.error}" if view.error else ""
    what = "no release" if wanted is None else f"no release that begins with {wanted}"
    raise ProblemError(503, Reason.NO_RELEASE_READY, f"{what} of {model} is ready{why}", retry_after=2)


async def _inferred(
    gateway: Gateway, draft: _Draft, inputs: list[Any], wanted: str | None
) -> tuple[LoadedRelease, dict[str, NDArray[Any]]]:
    """Outputs, and the release that gave them, as the replica that did has it.

    A release that was just unloaded is replaced by the one after it, and replicas that are gone by those that are there
    instead, once.
    """
    deadline = time.monotonic() + gateway.settings.deadline
    for attempt in range(2):
        chosen = await _chosen(gateway, draft.model, wanted)
        try:
            place, outputs = await gateway.inference.infer(
                inputs,
                at={place: release.triton_name for place, release in chosen.at.items()},
                request_id=draft.request_id,
                seconds=max(0.001, deadline - time.monotonic()),
            )
            return chosen.at[place], outputs
        except UnknownModel as error:
            if attempt == 0:
                await gateway.table.refresh()
                continue
            raise ProblemError(503, Reason.NO_RELEASE_READY, error.message, retry_after=2) from None
        except DeadlineExceeded as error:
            raise ProblemError(504, Reason.DEADLINE_EXCEEDED, error.message) from None
        except Unavailable as error:
            if attempt == 0:
                await gateway.table.refresh()
                view = gateway.table.view(draft.model)
                if view is not None and any(set(now.at) - set(chosen.at) for now in view.asked_for(wanted)):
                    continue
            log.warning("%s", error.message)
            raise ProblemError(503, Reason.SERVER_AWAY, "the model server is away", retry_after=2) from None
        except TritonRefused as error:
            log.error("request %s: %s", draft.request_id, error.message)
            raise ProblemError(502, Reason.INFERENCE_FAILED, "the model failed on this input") from None
        except ModelportError as error:
            log.error("request %s: %s", draft.request_id, error)
            raise
    raise AssertionError("unreachable")


def _record(gateway: Gateway, draft: _Draft, status: int, reason: Reason | None) -> None:
    kept = _DISCONNECTED if reason is Reason.DISCONNECTED else status
    record = Record(**vars(draft), status=kept, reason=None if reason is None else reason.value)
    if gateway.spool.append(record):
        gateway.segment_sealed.set()


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
