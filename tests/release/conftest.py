"""A model folder of a few lines, and what a training of it would hand over."""

import sys
from pathlib import Path

import pytest

from modelport.contract import ModelFolder

# Tests are not packages; their builder of projects is a module beside them.
sys.path.insert(0, str(Path(__file__).parent))
import redness


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModelFolder:
    """A model folder whose name no other test uses: tests share the bucket and the registry."""
    called = request.node.name.removeprefix("test_").replace("[", "_").replace("]", "").replace("-", "_")
    name = f"r_{called[:36].rstrip('_')}"
    monkeypatch.delenv("MODELPORT_STATE", raising=False)
    monkeypatch.setenv("MODELPORT_PROJECT", str(tmp_path))
    return redness.write_project(tmp_path, name)
