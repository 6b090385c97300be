"""How the page comes to a browser, without one."""

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from modelport.serving import GatewaySettings
from modelport.serving.gateway import page
from modelport.serving.gateway.middleware import RequestNames


def asked(*paths: str) -> list[httpx.Response]:
    """Answers of an application with the page, and nothing else."""

    async def ask() -> list[httpx.Response]:
        app = FastAPI()
        page.mount(app, GatewaySettings(keys=Path("keys"), spool=Path("spool")))
        app.add_middleware(RequestNames)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(ask())


def test_a_gateway_without_gradio_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    (answer,) = asked("/ui/")
    assert answer.status_code == 404
    assert "modelport[serve]" in answer.json()["message"]
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_gradio_is_loaded_by_the_first_reader_and_writes_nothing_where_it_may_not(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        import modelport.serving.gateway.app
        assert "gradio" not in sys.modules, "gateways that only answer programs go without"
        sys.path.insert(0, sys.argv[1])
        from test_delivery import asked
        page, theme, again = asked("/ui/", "/ui/theme.css", "/ui/")
        assert (page.status_code, theme.status_code, again.status_code) == (200, 200, 200)
        assert "fonts.googleapis" not in theme.text + page.text
        assert page.headers["Cache-Control"] == "no-cache"
        assert "window.modelportPage" in page.text
    """
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    home.chmod(0o500)
    variables = {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(Path(__file__).parent)],
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **variables},
    )
    assert list(home.iterdir()) == []
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
