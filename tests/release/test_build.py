"""From a finished training to a registered release: whole, equal to torch, and never twice."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import redness
import torch

from modelport.connection import Connection, Role
from modelport.contract import ModelFolder
from modelport.errors import BadInput, Unavailable
from modelport.imaging import decode
from modelport.objects import ObjectStore
from modelport.release import (
    FP32,
    MANIFEST_FILE,
    TRAINING_DATA_FILE,
    Registry,
    Release,
    Runtime,
    build,
    compare,
    staging_prefix,
)
from modelport.training import load_entry

# Builds, and stops by being killed; the result of the training is made as the test makes it.
DRIVER = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import redness
from modelport.connection import Connection
from modelport.contract import ModelFolder
from modelport.release import build
folder = ModelFolder(Path(sys.argv[2]))
result = redness.trained(folder)
result = type(result)(**{**result.__dict__, "mlflow_run_id": sys.argv[4]})
built = build(folder, result, Connection.load(Path(sys.argv[3])), folder.spec)
print(json.dumps([built.digest, built.version]))
"""


def closed(connection: Connection) -> Connection:
    """The same platform while MLflow is away."""
    return connection.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})


def staged(connection: Connection, model: str) -> list[str]:
    store = ObjectStore.connect(connection, Role.TRAINER)
    return sorted(row.key for row in store.list(f"{staging_prefix(model)}/"))


def test_whole_release(folder: ModelFolder, tracked_connection: Connection) -> None:
    result = redness.trained(folder, tracked_connection)
    built = build(folder, result, tracked_connection, folder.spec)

    release = Release.open(built.path, built.digest)
    manifest = release.manifest
    assert set(manifest.files) == {
        *(f"{step}/model.onnx" for step in ("preprocess", "network", "postprocess")),
        *(f"triton/{step}/config.pbtxt" for step in (folder.name, "preprocess", "network", "postprocess")),
        *(f"golden/{number}.{kind}" for number in range(4) for kind in ("png", "npz")),
        "model.yaml",
        TRAINING_DATA_FILE,
    }
    assert manifest.metrics == {"dice": 0.9}, "a metric that is not a number must not break the manifest"
    assert [label.name for label in manifest.classes] == ["background", "red"]
    assert manifest.thresholds == {"red": 0.5}
    assert manifest.data_digest == result.data_digest
    assert manifest.code_digest == folder.bundle().digest
    assert manifest.versions["torch"] == torch.__version__.partition("+")[0]
    assert len(json.loads(release.read(TRAINING_DATA_FILE))["images"]) == 4
    for path in manifest.files:
        assert str(folder.path.parent.parent).encode() not in release.read(path), f"{path} names this machine's files"

    # Equal to torch, asked here once more and not by the code that promised it.
    modules = load_entry(folder.path, "pipeline").pipeline(result.checkpoint, parameters={"size": 32})
    runtime = Runtime(release)
    for golden in release.golden():
        pixels = decode(golden.data)
        outputs = runtime.predict(pixels)
        with torch.inference_mode():
            tensor = torch.from_numpy(pixels.copy())
            logits = modules.network(modules.preprocess(tensor))
            mask, _ = modules.postprocess(logits, tensor)
        assert np.abs(outputs["logits"] - logits.numpy()).max() < 1e-3
        assert outputs["mask"].shape == pixels.shape[:2]
        assert np.mean(outputs["mask"] != mask.numpy()) <= 0.001
        assert compare(outputs, golden.expected, manifest.tolerances[FP32]) == []

    assert f"{staging_prefix(folder.name)}/{built.digest}/{MANIFEST_FILE}" in staged(tracked_connection, folder.name)
    (row,) = Registry.connect(tracked_connection).versions(folder.name)
    assert (row.version, row.digest, row.run_id) == (1, built.digest, result.mlflow_run_id)
    assert row.tags["modelport.code_digest"] == manifest.code_digest
    assert row.tags["modelport.data_digest"] == manifest.data_digest
    assert row.tags["modelport.run_key"] == "run"
    assert row.tags["modelport.staging"].endswith(built.digest)


def test_again_changes_nothing(folder: ModelFolder, tracked_connection: Connection) -> None:
    result = redness.trained(folder, tracked_connection)
    first = build(folder, result, tracked_connection, folder.spec)
    assert build(folder, result, tracked_connection, folder.spec) == first

    # Another machine, that has nothing but the checkpoint and MLflow.
    for file in sorted(first.path.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    first.path.rmdir()
    assert build(folder, result, tracked_connection, folder.spec) == first

    # Its staging was damaged, and its local copy too: both are mended.
    key = f"{staging_prefix(folder.name)}/{first.digest}/network/model.onnx"
    ObjectStore.connect(tracked_connection, Role.TRAINER).put(key, b"damaged")
    (first.path / "network" / "model.onnx").write_bytes(b"damaged")
    assert build(folder, result, tracked_connection, folder.spec) == first
    Release.open(first.path, first.digest)
    assert len(Registry.connect(tracked_connection).versions(folder.name)) == 1
    assert len([key for key in staged(tracked_connection, folder.name) if key.endswith(MANIFEST_FILE)]) == 1


def test_mlflow_away(folder: ModelFolder, tracked_connection: Connection) -> None:
    result = redness.trained(folder, tracked_connection)
    with pytest.raises(Unavailable, match="staged and safe, but not registered") as caught:
        build(folder, result, closed(tracked_connection), folder.spec)
    assert "run the same command again" in str(caught.value)
    (complete,) = [key for key in staged(tracked_connection, folder.name) if key.endswith(MANIFEST_FILE)]
    assert Registry.connect(tracked_connection).versions(folder.name) == []

    built = build(folder, result, tracked_connection, folder.spec)
    assert complete.endswith(f"{built.digest}/{MANIFEST_FILE}"), "what was staged is what is registered"
    assert built.version == 1


def test_killed_and_finished(folder: ModelFolder, tracked_connection: Connection, tmp_path: Path) -> None:
    file = tmp_path / "connection.json"
    tracked_connection.save(file)
    result = redness.trained(folder, tracked_connection)
    run = result.mlflow_run_id
    build(folder, result, None, folder.spec)  # what is killed below need not export first
    command = [sys.executable, "-c", DRIVER, str(Path(redness.__file__).parent), str(folder.path), str(file), run]
    for part in ("model.yaml", MANIFEST_FILE):  # in the middle of staging, and between staging and registration
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
        deadline = time.monotonic() + 240
        while not any(key.endswith(part) for key in staged(tracked_connection, folder.name)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait(timeout=10)

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    digest, version = json.loads(done.stdout)
    rows = Registry.connect(tracked_connection).versions(folder.name)
    assert [(row.digest, row.version) for row in rows] == [(digest, version)]
    store = ObjectStore.connect(tracked_connection, Role.TRAINER)
    Release.fetch(store, staging_prefix(folder.name), digest, tmp_path / "fetched")


def test_training_again_gives_another_release(folder: ModelFolder) -> None:
    first = build(folder, redness.trained(folder), None, folder.spec)
    assert first.version is None, "there is no platform, so there is no number"
    assert Release.open(first.path, first.digest).manifest.mlflow_run_id is None
    file = folder.path.parent.parent / "checkpoint" / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    state["model"]["2.bias"] -= 0.5
    torch.save(state, file)
    # Releases beside it that cannot be opened are neither in the way nor thrown away.
    (first.path / "network" / "model.onnx").write_bytes(b"damaged")
    newer = first.path.parent / ("f" * 64)
    newer.mkdir()
    (newer / MANIFEST_FILE).write_bytes(b'{"schema": "modelport.release/9"}')
    second = build(folder, redness.trained(folder), None, folder.spec)
    assert second.digest != first.digest, "the old release was taken for the new training's"
    assert {row.name for row in first.path.parent.iterdir()} == {first.digest, second.digest, newer.name}


def test_changed_folder(folder: ModelFolder) -> None:
    result = redness.trained(folder)
    (folder.path / "pipeline.py").write_text(redness.PIPELINE + "\n# changed\n")
    with pytest.raises(BadInput, match="was changed since the training"):
        build(folder, result, None, folder.spec)


def test_config_disagrees_with_graph(folder: ModelFolder, tracked_connection: Connection) -> None:
    config = folder.path / "triton" / "network" / "config.pbtxt"
    config.write_text(config.read_text().replace("[ 1, 32, 32 ]", "[ 2, 32, 32 ]"))
    with pytest.raises(BadInput) as caught:
        build(folder, redness.trained(folder, tracked_connection), tracked_connection, folder.spec)
    message = str(caught.value)
    assert str(config) in message
    assert "output 'logits'" in message
    assert staged(tracked_connection, folder.name) == [], "a release that breaks the contract was staged"
    assert Registry.connect(tracked_connection).versions(folder.name) == []
