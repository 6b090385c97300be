"""The routes: what the API offers, and everything that its OpenAPI document says of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from modelport.contract import Task
from modelport.contract.spec import Precision
from modelport.serving.answers import AnyPrediction, ClassInfo, class_infos
from modelport.serving.gateway.examples import EXAMPLES
from modelport.serving.gateway.parts import Gateway
from modelport.serving.gateway.predict import Asked, predict
from modelport.serving.gateway.problems import DOCUMENTED, Problem, ProblemError, Reason
from modelport.serving.gateway.releases import ModelView
from modelport.serving.gateway.uploads import IMAGE_FIELD


class ReleaseInfo(BaseModel):
    """A release that is loaded and verified, and can be asked for."""

    digest: str = Field(description="The version; its beginning is enough for `?release=`.")
    active: bool = Field(description="Whether it answers those who ask for no release.")
    precision: Precision = Field(
        description="Arithmetic that it runs with; where replicas differ, every answer names its own."
    )


class ModelInfo(BaseModel):
    """A model, and what serves it now."""

    name: str
    ready: bool = Field(description="Whether predictions are answered now.")
    task: Task | None = Field(description="What it answers; null while no release is ready.")
    release: str | None = Field(description="Digest of the release that answers now; null while none is ready.")
    desired: str | None = Field(description="Digest of the release that should answer.")
    replicas: int = Field(description="Replicas that have the answering release loaded.")
    classes: list[ClassInfo] = Field(description="Label map of the answering release.")
    releases: list[ReleaseInfo] = Field(description="Every release that can be asked for, the answering one first.")
    error: str | None = Field(description="Why the desired release does not answer, when it does not.")


class ModelList(BaseModel):
    """Every model that the gateway knows."""

    models: list[ModelInfo]


class Health(BaseModel):
    """Whether this process lives."""

    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """Whether predictions are answered."""

    ready: bool
    models: list[str] = Field(description="Models that answer now.")


router = APIRouter(prefix="/v1", tags=["models"])
operations = APIRouter(tags=["operations"])

_key_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")
_bearer = HTTPBearer(auto_error=False, description="The same API key, as a bearer token.")

_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "title": "ImageUpload",
                    "required": [IMAGE_FIELD],
                    "properties": {
                        IMAGE_FIELD: {
                            "type": "string",
                            "format": "binary",
                            "description": "A JPEG, or a PNG of 8 or 16 bits; turned upright by its EXIF orientation. "
                            "A PNG that was damaged on the way is refused; a JPEG has no checksum, and is only where "
                            "what is left of it makes no sense.",
                        }
                    },
                },
                "encoding": {IMAGE_FIELD: {"contentType": "image/jpeg, image/png"}},
            }
        },
    }
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    documented: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        documented[status] = {"model": Problem, "description": DOCUMENTED[status]}
        if status == 503:
            documented[status]["headers"] = _RETRY_AFTER
    return documented


async def gateway_of(request: Request) -> Gateway:
    """The gateway that this application is."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def caller_of(
    gateway: Annotated[Gateway, Depends(gateway_of)],
    header: Annotated[str | None, Depends(_key_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """Who is calling; refuses those without a key."""
    key = header or (bearer.credentials if bearer else None)
    caller = gateway.keys.caller(key) if key else None
    if caller is None:
        gateway.metrics.requests.labels("", "401", Reason.UNAUTHORIZED).inc()
        message = "this key is not valid" if key else "send an API key in X-API-Key, or as Authorization: Bearer"
        raise ProblemError(401, Reason.UNAUTHORIZED, message)
    return caller


CurrentGateway = Annotated[Gateway, Depends(gateway_of)]
Caller = Annotated[str, Depends(caller_of)]
ModelName = Annotated[str, Path(description="Name of the model.", examples=["polyp_seg"])]


@router.get("/models", summary="List models", responses=_errors(401))
async def list_models(gateway: CurrentGateway, _: Caller) -> ModelList:
    """Every model that a replica knows, ready or not."""
    return ModelList(models=[_info(name, view) for name, view in sorted(gateway.table.models.items())])


@router.get("/models/{name}", summary="Describe a model", responses=_errors(401, 404, 422))
async def get_model(gateway: CurrentGateway, _: Caller, name: ModelName) -> ModelInfo:
    """What serves a model now, and its label map."""
    view = gateway.table.view(name)
    if view is None:
        raise ProblemError(404, Reason.UNKNOWN_MODEL, f"there is no model {name!r}; GET /v1/models lists them")
    return _info(name, view)


@router.post(
    "/models/{name}/predict",
    summary="Predict on an image",
    response_model=AnyPrediction,
    responses={200: {"content": {"application/json": {"examples": EXAMPLES}}}, **_errors(*DOCUMENTED)},
    openapi_extra=_UPLOAD,
)
async def predict_image(
    request: Request,
    gateway: CurrentGateway,
    caller: Caller,
    name: ModelName,
    overlay: Annotated[bool, Query(description="Also return the image with the answer drawn into it.")] = False,
    release: Annotated[
        str | None,
        Query(
            pattern=r"^[0-9a-f]{6,64}$",
            description="Digest of a loaded release, or its beginning; without it the one that answers now.",
        ),
    ] = None,
) -> Response:
    """Send an image, get the model's answer with the digest of the release that gave it."""
    return await predict(gateway, request, caller, name, Asked(overlay, release))


@operations.get("/healthz", summary="Liveness")
async def healthz() -> Health:
    """This process lives."""
    return Health(status="ok")


@operations.get(
    "/readyz",
    summary="Readiness",
    responses={503: {"model": Readiness, "description": "No model answers.", "headers": _RETRY_AFTER}},
)
async def readyz(gateway: CurrentGateway, response: Response) -> Readiness:
    """Whether at least one model answers: Triton itself is asked."""
    ready = [
        name
        for name, view in sorted(gateway.table.models.items())
        if view.active is not None and await gateway.inference.is_ready(view.active.triton_name, view.at)
    ]
    if not ready:
        response.status_code = 503
        response.headers["Retry-After"] = "2"
    return Readiness(ready=bool(ready), models=ready)


@operations.get(
    "/metrics", summary="Metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
async def metrics(gateway: CurrentGateway) -> Response:
    """Metrics as Prometheus reads them."""
    return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _info(name: str, view: ModelView) -> ModelInfo:
    release = view.active
    return ModelInfo(
        name=name,
        ready=release is not None,
        task=None if release is None else release.task,
        release=None if release is None else release.digest,
        desired=view.desired,
        replicas=view.replicas,
        classes=[] if release is None else class_infos(release),
        releases=[
            ReleaseInfo(digest=each.release.digest, active=each.release == release, precision=each.release.precision)
            for each in view.loaded
        ],
        error=view.error,
    )
