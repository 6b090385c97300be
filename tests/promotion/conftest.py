"""One model of its own for every test of promotion, on the shared store and registry."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from modelport.connection import Connection
from modelport.imaging import encode_png
from tests.promotion.promotion_bench import MODEL_YAML, Bench
from tests.serving import tiny_release as tiny


@pytest.fixture
def bench(
    tracked_connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Bench:
    name = "p_" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    folder = tmp_path / "models" / name
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(MODEL_YAML.format(name=name))
    # Code that must never run in a promoter's process.
    (folder / "pipeline.py").write_text("raise SystemExit('the folder was imported')\n")
    for split, seeds in (("train", range(4)), ("validation", range(10, 16))):
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        for seed in seeds:
            pixels = tiny.image(seed, 40 + seed, 90 - seed)
            mask = ((pixels[:, :, 0] > 120 + seed) * 255).astype(np.uint8)
            (tmp_path / "data" / split / "images" / f"{seed}.png").write_bytes(encode_png(pixels))
            (tmp_path / "data" / split / "masks" / f"{seed}.png").write_bytes(encode_png(mask))
    monkeypatch.delenv("MODELPORT_STATE", raising=False)
    monkeypatch.setenv("MODELPORT_PROJECT", str(tmp_path))
    # Tests that do without MLflow need not wait for its client to give up.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file = tmp_path / "connection.json"
    tracked_connection.save(file)
    monkeypatch.setenv("MODELPORT_CONNECTION", str(file))
    return Bench(name, tmp_path, tracked_connection)
