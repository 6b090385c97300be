"""The dry_wet folder: it keeps the contract, learns its sample, and its release answers as torch does."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from modelport.contract import ModelFolder, check, find_model
from modelport.errors import BadInput, Unavailable
from modelport.imaging import decode
from modelport.learning import classifier
from modelport.learning.networks import load_pretrained
from modelport.release import Release, Runtime, build
from modelport.training import TrainingResult, load_entry
from tests.training.in_process import train_here

FOLDER = Path(__file__).parents[2] / "models" / "dry_wet"


@dataclass
class Trained:
    folder: ModelFolder
    result: TrainingResult
    release: Release


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A release of a short training on the sample."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(FOLDER, project / "models" / "dry_wet")
    folder = find_model("dry_wet", project)
    overrides = ["train.epochs=8", "train.batch_size=8", "train.workers.cpus=1"]
    result = train_here(folder, folder.path / "sample", overrides)
    built = build(folder, result, None, result.spec)
    return Trained(folder, result, Release.open(built.path, built.digest))


def test_folder_keeps_the_contract() -> None:
    assert check(find_model("dry_wet", FOLDER.parents[1])) == []


def test_sample_is_what_the_script_draws() -> None:
    draw = load_entry(FOLDER, "sample").draw
    for name, wet in (("dry", False), ("wet", True)):
        drawn = draw(wet, np.random.default_rng((False, wet, 3)))
        stored = decode((FOLDER / "sample" / "validation" / name / "03.jpg").read_bytes())
        assert drawn.shape == stored.shape
        assert np.abs(drawn.astype(int) - stored).mean() < 8  # JPEG


def test_training_learns_the_sample_and_reports_what_is_promised(trained: Trained) -> None:
    epochs = [record["metrics"] for record in trained.result.epochs]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    names = {"accuracy", "balanced_accuracy", "f1", "auroc", "calibration_error", "nll", "temperature", "loss"}
    assert set(epochs[-1]) == names
    assert trained.result.metrics["nll"] == min(metrics["nll"] for metrics in epochs)


def test_release_answers_as_torch_with_the_epoch_s_temperature(trained: Trained) -> None:
    pipeline = load_entry(trained.folder.path, "pipeline")
    served = pipeline.pipeline(trained.result.checkpoint, parameters=dict(trained.result.spec.train.parameters))
    assert served.postprocess.temperature == trained.result.metrics["temperature"]
    runtime = Runtime(trained.release)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((17, 401), (300, 64), (128, 128))]
    images += [decode(golden.data) for golden in trained.release.golden()]
    for image in images:
        answer = runtime.predict(image)["probabilities"]
        tensor = torch.tensor(image)
        with torch.inference_mode():
            logits = served.network(served.preprocess(tensor))
            wanted = (logits[0] / trained.result.metrics["temperature"]).softmax(0)
        assert answer.dtype == np.float32
        assert answer.shape == (2,)
        assert answer.sum() == pytest.approx(1, abs=1e-5)
        assert answer == pytest.approx(wanted.numpy(), abs=1e-3)


def test_manifest_carries_the_order_of_classes_and_the_threshold(trained: Trained) -> None:
    manifest = trained.release.manifest
    assert [label.name for label in manifest.classes] == ["dry", "wet"]
    assert manifest.thresholds == {"unsure": trained.result.spec.train.parameters["unsure_below"]}


@pytest.mark.parametrize("name", ["small", "mobilenet_v3_small", "efficientnet_b0"])
def test_networks(name: str) -> None:
    network = classifier(name, 3)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="resnet152") as caught:
        classifier("resnet152", 2)
    assert "efficientnet_b0" in (caught.value.remedy or "")


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_pretrained_weights_fit_all_but_the_last_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ImageNet's thousand classes in the file, and two in the network."""
    torch.manual_seed(1)
    imagenet, network = classifier(name, 1000), classifier(name, 2)
    stored = {key.removeprefix("body."): value for key, value in imagenet.state_dict().items()}
    monkeypatch.setattr(type(network.weights), "get_state_dict", lambda *_, **__: stored)
    last = {key: value.clone() for key, value in network.state_dict().items() if value.shape[:1] == (2,)}
    assert len(last) == 2
    load_pretrained(network)
    for key, value in network.state_dict().items():
        assert torch.equal(value, last[key] if key in last else stored[key.removeprefix("body.")])


@pytest.mark.usefixtures("no_downloads")
def test_pretrained_offline_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match=r"train\.pretrained=false"):
        load_pretrained(classifier("efficientnet_b0", 2))
    with pytest.raises(BadInput, match="small network"):
        load_pretrained(classifier("small", 2))
