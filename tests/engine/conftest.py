"""The cluster that engine tests share, and engines over tiny projects."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The plugins are programs: each finds the others' modules beside itself.
sys.path.insert(0, str(Path(__file__).parent / "plugins"))

from tests.engine.engine import Engine, write_project

TinyEngine = Callable[..., Engine]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyEngine:
    """Makes an engine with a stack `dev` over a project of one program; options go to `Engine`."""

    def make(text: str, **options: object) -> Engine:
        engine = Engine(write_project(tmp_path / "project", text), tmp_path / "state", **options)  # type: ignore[arg-type]
        engine.stack_init("dev")
        return engine

    return make
