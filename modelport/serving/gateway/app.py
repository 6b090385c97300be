"""The gateway's application: what it is made of, and when its parts begin and end."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from modelport.connection import Connection, Role
from modelport.errors import BadInput
from modelport.objects import ObjectStore
from modelport.serving.gateway import page, routes
from modelport.serving.gateway.admission import Admission
from modelport.serving.gateway.keys import KeyRing
from modelport.serving.gateway.metrics import GatewayMetrics
from modelport.serving.gateway.middleware import HEADER, RequestNames
from modelport.serving.gateway.parts import Gateway
from modelport.serving.gateway.problems import Problem, ProblemError, Reason
from modelport.serving.gateway.records import Shipper, Spool
from modelport.serving.gateway.releases import ReleaseTable
from modelport.serving.gateway.replicas import Resolve, places, resolve
from modelport.serving.gateway.settings import GatewaySettings
from modelport.serving.gateway.triton import Inference

log = logging.getLogger("modelport.gateway")

_LAST_SHIPMENT_SECONDS = 15.0


def create_app(settings: GatewaySettings, connection: Connection, resolve: Resolve = resolve) -> FastAPI:
    """The REST API.

    Args:
        settings: files, limits and patience.
        connection: the platform, with the server's identity.
        resolve: finds the addresses of names in the connection.

    Raises:
        BadInput: the keys file makes no sense, or the connection names no Triton or no agent.
        Conflict: another gateway has the spool.
    """
    for name in ("triton_grpc", "agent_urls"):
        if not getattr(connection, name):
            raise BadInput("is empty, and a gateway needs it", key=name, remedy="set it in the connection file")
    known_places = places(connection.agent_urls, connection.triton_grpc)
    keys = KeyRing(settings.keys)
    store = ObjectStore.connect(connection, Role.SERVER)
    metrics = GatewayMetrics()
    spool = Spool(settings.spool, settings.spool_bytes, settings.record_rows, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        inference = Inference()
        gateway = Gateway(
            settings=settings,
            keys=keys,
            metrics=metrics,
            spool=spool,
            shipper=Shipper(spool, store, metrics),
            table=ReleaseTable(known_places, settings.refresh, inference.keep, resolve),
            inference=inference,
            threads=ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="pixels"),
            admission=Admission(settings, metrics),
        )
        app.state.gateway = gateway
        tasks = [asyncio.create_task(gateway.table.run()), asyncio.create_task(_store_records(gateway))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _last_shipment(gateway)
            await gateway.table.close()
            await gateway.inference.close()
            gateway.threads.shutdown(cancel_futures=True)
            spool.close()

    app = FastAPI(
        title="modelport",
        version=version("modelport"),
        summary="Predictions of the models that this platform serves.",
        description="Every answer names the release that gave it. Keys go into X-API-Key, or Authorization: Bearer.",
        lifespan=lifespan,
    )
    app.include_router(routes.router)
    app.include_router(routes.operations)
    page.mount(app, settings)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_surprise)
    app.add_middleware(RequestNames)
    return app


async def _store_records(gateway: Gateway) -> None:
    """Store what the spool holds, when a segment is full and every `record_seconds`; slower while the store is away."""
    pause = 0.0  # what an earlier process left is stored at once
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await gateway.segment_sealed.wait()
        gateway.segment_sealed.clear()
        gateway.spool.seal()
        stored = False
        try:
            stored = await asyncio.to_thread(gateway.shipper.ship)
        except Exception:
            log.exception("unexpected failure while storing records")
        pause = gateway.settings.record_seconds
        if not stored:
            gateway.segment_sealed.clear()
            await asyncio.sleep(min(pause, 5.0))


async def _last_shipment(gateway: Gateway) -> None:
    gateway.spool.seal()
    try:
        async with asyncio.timeout(_LAST_SHIPMENT_SECONDS):
            await asyncio.to_thread(gateway.shipper.ship)
    except TimeoutError:
        log.warning("records that are not stored yet stay in the spool for the next start")


def _answer(request: Request, error: ProblemError) -> Response:
    problem = Problem(reason=error.reason, message=error.message, request_id=request.state.request_id)
    headers = error.headers
    if request.method == "POST" and not getattr(request.state, "upload_read", False):
        # Somebody may still be sending. The connection ends here, or the rest would be read for nothing.
        headers["Connection"] = "close"
    return JSONResponse(problem.model_dump(), status_code=error.status, headers=headers)


def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _answer(request, error)


def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return _answer(request, ProblemError(422, Reason.INVALID_PARAMETER, f"{place}: {first['msg']}"))


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: Reason.NOT_FOUND, 405: Reason.METHOD_NOT_ALLOWED}.get(error.status_code, Reason.INTERNAL)
    answer = _answer(request, ProblemError(error.status_code, reason, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


def _on_surprise(request: Request, error: Exception) -> Response:
    log.error("unexpected failure of %s %s", request.method, request.url.path, exc_info=error)
    answer = _answer(request, ProblemError(500, Reason.INTERNAL, "the gateway failed; its log says why"))
    answer.headers[HEADER] = request.state.request_id  # surprises are answered outside of every middleware
    return answer
