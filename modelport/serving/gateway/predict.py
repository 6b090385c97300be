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
from modelport.imaging import ImageError, Pixels, decode
from modelport.serving.client import TritonRefused, UnknownModel
from modelport.serving.gateway.answers import RENDERERS, Milliseconds
from modelport.serving.gateway.parts import Gateway
from modelport.serving.gateway.problems import IMAGE_STATUS, ProblemError, Reason
from modelport.serving.gateway.records import Record, summary_json
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
    input_sha256: str | None = None
    input_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    summary: str | None = None
    decode_ms: float | None = None
    inference_ms: float | None = None
    total_ms: float | None = None


async def predict(gateway: Gateway, request: Request, caller: str, model: str, with_overlay: bool) -> Response:
    """Answer one request and leave its record, whatever happens.

    Raises:
        ProblemError: there is no answer.
    """
    draft = _Draft(request.state.request_id, caller, model)
    status, reason = 500, Reason.INTERNAL
    gateway.metrics.in_flight.inc()
    gateway.in_flight += 1
    try:
        response = await _answered(gateway, request, draft, with_overlay)
        status, reason = 200, None
        return response
    except ProblemError as error:
        status, reason = error.status, error.reason
        raise
    finally:
        gateway.in_flight -= 1
        gateway.metrics.in_flight.dec()
        known = model in gateway.table.models
        gateway.metrics.requests.labels(model if known else "", str(status), reason or "").inc()
        if _MODEL_NAME.fullmatch(model):
            _record(gateway, draft, status, reason)


async def _answered(gateway: Gateway, request: Request, draft: _Draft, with_overlay: bool) -> Response:
    settings = gateway.settings
    if gateway.in_flight > settings.max_in_flight:
        raise ProblemError(503, Reason.BUSY, "too many predictions are being worked on", retry_after=1)
    await _active(gateway, draft.model)  # before the upload is read: nobody sends megabytes for a 404
    data = await read_image(request, settings.max_bytes, settings.upload_seconds)
    started = time.perf_counter()
    draft.input_bytes = len(data)
    decoded = await _in_thread(gateway, lambda: _decoded(data, gateway))
    draft.input_sha256 = decoded.sha256
    if isinstance(decoded.image, ImageError):
        error = decoded.image
        raise ProblemError(IMAGE_STATUS[error.reason], Reason(error.reason.value), error.message)
    image = decoded.image
    height, width = image.shape[:2]
    draft.height, draft.width = height, width
    draft.decode_ms = _since(started)
    pixels = height * width
    if gateway.pixels_in_flight and gateway.pixels_in_flight + pixels > settings.max_pixels_in_flight:
        raise ProblemError(503, Reason.BUSY, "too many pixels are being worked on", retry_after=1)
    gateway.pixels_in_flight += pixels
    try:
        return await _rendered(gateway, draft, decoded.inputs, image, with_overlay, started)
    finally:
        gateway.pixels_in_flight -= pixels


async def _rendered(
    gateway: Gateway, draft: _Draft, inputs: list[Any], image: Pixels, with_overlay: bool, started: float
) -> Response:
    asked = time.perf_counter()
    release, outputs = await _inferred(gateway, draft, inputs)
    draft.release = release.digest
    draft.inference_ms = _since(asked)

    answer = await _in_thread(gateway, lambda: RENDERERS[release.task](outputs, image, release, with_overlay))
    draft.summary = summary_json(answer.summary)
    draft.total_ms = _since(started)
    milliseconds = Milliseconds(decode=draft.decode_ms or 0.0, inference=draft.inference_ms, total=draft.total_ms)
    for phase, value in milliseconds:
        gateway.metrics.seconds.labels(draft.model, phase).observe(value / 1000)
    body = answer.schema.model_validate(
        {
            "model": draft.model,
            "release": release.digest,
            "request_id": draft.request_id,
            "width": draft.width,
            "height": draft.height,
            "milliseconds": milliseconds,
            **answer.fields,
        }
    )
    return Response(body.model_dump_json(exclude_none=True), media_type="application/json")


@dataclass(frozen=True)
class _Decoded:
    sha256: str
    image: Pixels | ImageError
    inputs: list[Any]


def _decoded(data: bytes, gateway: Gateway) -> _Decoded:
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data, gateway.settings.limits)
    except ImageError as error:
        return _Decoded(digest, error, [])
    return _Decoded(digest, image, tensors({"image": image}))


async def _in_thread(gateway: Gateway, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(gateway.threads, work)


async def _active(gateway: Gateway, model: str) -> tuple[LoadedRelease, tuple[str, ...]]:
    """The release to ask, and the Tritons that have it; looks anew before it says that there is none."""
    for attempt in range(2):
        view = gateway.table.view(model)
        if view is not None and view.active is not None:
            if view.active.task not in RENDERERS:
                message = f"this gateway has no answer for the task {view.active.task} yet"
                raise ProblemError(503, Reason.NO_RELEASE_READY, message, retry_after=60)
            return view.active, view.at
        if attempt == 0:
            await gateway.table.refresh()
    view = gateway.table.view(model)
    if view is None:
        raise ProblemError(404, Reason.UNKNOWN_MODEL, f"there is no model {model!r}; GET /v1/models lists them")
    why = f": {view.error}" if view.error else ""
    raise ProblemError(503, Reason.NO_RELEASE_READY, f"no release of {model} is ready{why}", retry_after=2)


async def _inferred(
    gateway: Gateway, draft: _Draft, inputs: list[Any]
) -> tuple[LoadedRelease, dict[str, NDArray[Any]]]:
    """Outputs, and the release that gave them.

    A release that was just unloaded is replaced by the one after it, and replicas that are gone by those that are there
    instead, once.
    """
    deadline = time.monotonic() + gateway.settings.deadline
    for attempt in range(2):
        release, at = await _active(gateway, draft.model)
        try:
            outputs = await gateway.inference.infer(
                release.triton_name,
                inputs,
                at=at,
                request_id=draft.request_id,
                seconds=max(0.001, deadline - time.monotonic()),
            )
            return release, outputs
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
                if view is not None and set(view.at) - set(at):
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
