"""The page at ``/ui`` for people: choose a model and a version, drop an image, read the answer.

The page asks the API itself, from the browser: with the reader's key, the file's own bytes and the same code, limits
and records as every other caller, and it does not matter which replica of the gateway answers. Gradio lays it out and
delivers it; it runs nothing and gets no image. So all of Gradio that takes uploads, runs functions or reads files is
closed: images may be patients', and those routes know no keys.
"""

import asyncio
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelport.serving.gateway.problems import Problem, Reason
from modelport.serving.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    import gradio

log = logging.getLogger("modelport.gateway")

PATH = "/ui"

_HERE = Path(__file__).parent
_DELIVERED = re.compile(r"/|/theme\.css|/(assets|static)/[\w.\-/]+")
"""What of Gradio's is reachable: the page and the files that belong to it."""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        # Gradio's page has scripts in it, and compiles those of its events.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data:",
        "manifest-src 'none'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_INTRODUCTION = """
# Ask a model
Give your API key, choose a model, drop an image. The image goes to this platform only and is not kept; a record of the
answer is, with the name that your key belongs to.
"""
CAUTION = (
    "**For research and evaluation.** Not a medical device: no diagnosis, no treatment and no decision on the road may "
    "rest on these answers alone. What a model is for, and where it fails, stands in its model card."
)

_DROP = """
<label class="mp-drop" for="mp-file"><span id="mp-name">Drop a JPEG or PNG here, or choose a file</span>
<input id="mp-file" type="file" accept="image/jpeg,image/png" aria-label="Image, JPEG or PNG">
<img id="mp-preview" alt="The image that you chose" hidden></label>
"""
_IDLE = '<div id="mp-status" class="mp-note" role="status">Nothing asked yet.</div>'


def mount(app: FastAPI, settings: GatewaySettings) -> None:
    """Add the page to a gateway's application, and lead ``/`` to it; neither is part of the API's document."""

    async def to_page(request: Request) -> RedirectResponse:
        # Relative: behind a proxy that ends TLS, this process does not know its own address.
        return RedirectResponse(f"{request.scope.get('root_path', '')}{PATH}/")

    async def no_icon() -> Response:
        return Response(status_code=204)  # browsers ask for it on their own

    for path in ("/", PATH):
        app.add_api_route(path, to_page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/favicon.ico", no_icon, methods=["GET"], include_in_schema=False)
    app.mount(PATH, Page(settings.max_bytes))


class Page:
    """The page as an application of its own, made when somebody first looks at it.

    Gradio takes seconds and a hundred megabytes to import: gateways that only answer programs go without.
    """

    def __init__(self, max_bytes: int) -> None:
        """Nothing is imported yet; `max_bytes` is the largest image file that the gateway takes."""
        self._max_bytes = max_bytes
        self._made: ASGIApp | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Deliver the page and its files, and nothing else."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        path: str = scope["path"].removeprefix(scope["root_path"])
        if scope["method"] not in ("GET", "HEAD") or not _DELIVERED.fullmatch(path) or ".." in path:
            await _refuse(scope, send, 404, Reason.NOT_FOUND, "there is no such part of the page")
            return
        try:
            page = await self._page()
        except ImportError as error:
            log.error("the page needs Gradio, which cannot be imported: %s", error)
            message = "this gateway has no page: install modelport[serve], which brings Gradio; the API is at /docs"
            await _refuse(scope, send, 404, Reason.NOT_FOUND, message)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                # Names of assets contain a digest of what they hold.
                lasting = path.startswith("/assets/") and message["status"] == 200
                headers["Cache-Control"] = "public, max-age=31536000, immutable" if lasting else "no-cache"
            await send(message)

        # The query says nothing to this page, and Gradio would read some of it.
        outside = scope["root_path"].removesuffix(PATH)
        await page({**scope, "root_path": outside, "query_string": b""}, receive, guarded)

    async def _page(self) -> ASGIApp:
        async with self._making:
            if self._made is None:
                self._made = await asyncio.to_thread(_made, self._max_bytes)
            return self._made


async def _refuse(scope: Scope, send: Send, status: int, reason: Reason, message: str) -> None:
    problem = Problem(reason=reason, message=message, request_id=scope["state"]["request_id"])
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": problem.model_dump_json().encode()})


def _made(max_bytes: int) -> ASGIApp:
    """Gradio's application of the page. Slow: it imports Gradio.

    Raises:
        ImportError: Gradio is not installed.
    """
    # Read when it is imported. It would tell its makers of every start, and look for newer versions.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio as gr
    from gradio.themes import Base

    # An application of its own: what Gradio wants to begin and end with a server is its queue, which nothing uses.
    host = FastAPI(openapi_url=None)
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    gr.mount_gradio_app(
        host,
        layout(max_bytes),
        path=PATH,
        theme=Base(font=system, font_mono=["ui-monospace", "monospace"]),
        css=(_HERE / "page.css").read_text(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        show_error=False,
    )
    return host


def layout(max_bytes: int) -> "gradio.Blocks":
    """What is where on the page; what happens is in ``page.js``."""
    import gradio as gr

    script = (_HERE / "page.js").read_text().replace("__MAX_BYTES__", json.dumps(max_bytes))
    with gr.Blocks(title="modelport", analytics_enabled=False) as blocks:
        gr.Markdown(_INTRODUCTION)
        gr.Markdown(CAUTION, elem_id="mp-caution")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                key = gr.Textbox(label="API key", type="password", max_lines=1, autofocus=True)
                show = gr.Button("Show models")
                model = gr.Dropdown([], label="Model", interactive=True, filterable=False)
                version = gr.Dropdown([], label="Version", interactive=True, filterable=False)
                image = gr.HTML(_DROP, elem_id="mp-upload", js_on_load=script)
                predict = gr.Button("Predict", variant="primary")
            with gr.Column(scale=3, min_width=300):
                answer = gr.HTML(_IDLE, elem_id="mp-answer", js_on_load=None)
                overlay = gr.Image(
                    label="Overlay",
                    alt_text="The image with the model's answer drawn on it",
                    interactive=False,
                    visible=False,
                    buttons=["download", "fullscreen"],
                    elem_id="mp-overlay",
                )
                details = gr.HTML("", elem_id="mp-details", js_on_load=None)
        # No function of Python's: these run in the browser, and Gradio has nothing to call.
        gr.on(
            [show.click, key.submit],
            fn=None,
            inputs=[key],
            outputs=[model, version, answer, overlay, details],
            js="(key) => window.modelportPage.models(key)",
            api_visibility="private",
        )
        model.change(
            fn=None,
            inputs=[model],
            outputs=[version],
            js="(model) => window.modelportPage.versions(model)",
            api_visibility="private",
        )
        image.upload(
            fn=None,
            inputs=[],
            outputs=[answer, overlay, details],
            js="() => window.modelportPage.chosen()",
            trigger_mode="multiple",
            api_visibility="private",
        )
        outputs = [answer, overlay, details, predict]
        predict.click(
            fn=None,
            inputs=[],
            outputs=outputs,
            js="() => window.modelportPage.working()",
            api_visibility="private",
        ).then(
            fn=None,
            inputs=[key, model, version],
            outputs=outputs,
            js="(key, model, version) => window.modelportPage.predict(key, model, version)",
            api_visibility="private",
        )
    return blocks
