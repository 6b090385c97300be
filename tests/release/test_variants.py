"""Variants answer as torch does within their precision's tolerances, or there are none."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import redness
import torch
from click.testing import CliRunner
from torch import nn

from components.versions import Image
from modelport.cli.export import _found, _selection_name
from modelport.cli.export import export as export_command
from modelport.connection import Connection, Role, S3Key
from modelport.contract import ModelFolder, Precision, Task, apply_overrides, parse_config
from modelport.data import load_dataset
from modelport.errors import BadInput, ModelportError, Refused, Unavailable
from modelport.imaging import decode
from modelport.objects import NotFound
from modelport.release import (
    FP32,
    INT8,
    TOLERANCES,
    Graph,
    Pipeline,
    Registry,
    Release,
    ReleaseManifest,
    Runtime,
    build,
    compare,
    loosened,
    sha256,
    tensorrt,
    tolerances_for,
    with_int8,
)
from modelport.release.export import Exported, export
from modelport.release.formats import EXPORT_FILE, Format, write_format
from modelport.release.openvino import OpenVinoGraph
from modelport.release.quantize import quantize
from modelport.release.variants import CALIBRATION_FILE, INT8_FILE, Calibration, make_int8
from modelport.serving.predicting import asking
from modelport.training import load_entry
from modelport.training.identity import run_key

STORED = Path(__file__).parent / "manifest_before_variants.json"
IMAGES = [redness.image(seed, 48, 64) for seed in range(6)]
TOLERATED = TOLERANCES[Task.SEGMENT][INT8]


class Normalised(nn.Module):
    """Convolutions with batch normalisation, as networks have them; its last layer decides."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.red, self.last = nn.Conv2d(3, 1, 1, bias=False), nn.Conv2d(65, 1, 1)
        with torch.no_grad():
            # Mostly what is red, so that the mask means something; the features give it a texture.
            self.red.weight.copy_(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1))
            self.last.weight[:, 1:] *= 0.3
            self.last.weight[:, 0] = 8.0
            self.last.bias.fill_(-4.0)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.red(batch), self.features(batch)], dim=1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Graphs of a small real network, and torch's answers."""
    root = tmp_path_factory.mktemp("exported")
    folder = redness.write_project(root, "exported")
    redness.trained(folder)
    plain = load_entry(folder.path, "pipeline").pipeline(root / "checkpoint", parameters={"size": 32})
    torch.manual_seed(0)
    network = Normalised().eval()
    return export(
        Pipeline(plain.preprocess, network, plain.postprocess), Task.SEGMENT, IMAGES, {**TOLERANCES[Task.SEGMENT][FP32]}
    )


def samples(exported: Exported) -> list:
    return [(str(number), image, exported.expected[number]) for number, image in enumerate(IMAGES)]


def calibration(*images: np.ndarray) -> Calibration:
    return Calibration(images, [sha256(image.tobytes()) for image in images])


def test_int8_is_smaller_answers_alike_and_comes_out_the_same(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = make_int8(exported.graphs, Task.SEGMENT, calibration(*IMAGES), samples(exported), TOLERATED)
    assert list(tmp_path.iterdir()) == [], "temporary files were left behind"
    network = exported.graphs["network"]
    assert len(made[INT8_FILE]) < 0.45 * len(network)
    assert make_int8(exported.graphs, Task.SEGMENT, calibration(*IMAGES), samples(exported), TOLERATED) == made
    record = json.loads(made[CALIBRATION_FILE])
    assert record["images"] == [sha256(image.tobytes()) for image in IMAGES]

    graph = onnx.load_from_string(made[INT8_FILE])
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    quantized = [node for node in convolutions if node.input[1] not in weights]
    assert (len(convolutions), len(quantized)) == (5, 4), "the last layer decides, and stays float"
    for node in quantized:
        scales = weights[makers[node.input[1]].input[1]]
        assert list(scales.dims) == [weights[makers[node.input[1]].input[0]].dims[0]], "a scale for each channel"
    assert {entry.domain for entry in graph.opset_import} == {""}, "an older engine refuses sets that it does not know"
    # The same signature, or Triton's configuration would not fit.
    assert (Graph(made[INT8_FILE]).inputs, Graph(made[INT8_FILE]).outputs) == (
        Graph(network).inputs,
        Graph(network).outputs,
    )


def test_a_calibration_that_shows_too_little_is_refused(exported: Exported) -> None:
    dark = calibration(IMAGES[0] // 10)  # everything brighter saturates
    with pytest.raises(BadInput, match="the int8 network does not answer as torch") as caught:
        make_int8(exported.graphs, Task.SEGMENT, dark, samples(exported), TOLERATED)
    assert "nothing was made" in (caught.value.remedy or "")
    with pytest.raises(BadInput, match="no image to calibrate with"):
        quantize(exported.graphs["network"], [])


def test_a_detectors_boxes_are_never_in_8_bits() -> None:
    """Expected distances (a softmax, then a convolution with 0 to 15), attention, and the last layers stay float."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.box, self.score = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 2, 1)
            self.expected = nn.Conv2d(16, 1, 1, bias=False)
            with torch.no_grad():
                self.expected.weight.copy_(torch.arange(16.0).reshape(1, 16, 1, 1))

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            features = self.stem(batch).relu()
            flat = features.flatten(2)
            attended = (flat.transpose(1, 2) @ flat).softmax(-1) @ flat.transpose(1, 2)
            features = features + attended.transpose(1, 2).reshape(features.shape)
            distance = self.expected(self.box(features).softmax(1))
            return torch.cat([distance, self.score(features).sigmoid()], 1)

    torch.manual_seed(0)
    batch = torch.rand(2, 3, 16, 16)
    program = torch.onnx.export(
        Detector().eval(),
        (batch,),
        dynamo=True,
        opset_version=18,
        input_names=["input"],
        output_names=["candidates"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    graph = onnx.load_from_string(quantize(program.model_proto.SerializeToString(), [batch[:1].numpy()])).graph
    names = {tensor.name for tensor in graph.initializer}
    makers = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul")]
    quantized = [n for n in products if makers.get(n.input[1]) == "DequantizeLinear" and n.input[1] not in names]
    assert len(products) == 6
    assert len(quantized) == 1, "the stem alone"


def test_openvino_answers_as_onnx_runtime(exported: Exported) -> None:
    int8 = make_int8(exported.graphs, Task.SEGMENT, calibration(*IMAGES), samples(exported), TOLERATED)[INT8_FILE]
    batch = np.concatenate([Graph(exported.graphs["preprocess"]).run({"image": image})["input"] for image in IMAGES])
    for graph, tolerance in ((exported.graphs["network"], 1e-3), (int8, 0.3)):
        ours, theirs = (engine(graph).run({"input": batch})["logits"] for engine in (Graph, OpenVinoGraph))
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= tolerance


def test_openvino_reports_nothing(exported: Exported, tmp_path: Path) -> None:
    """Its import would tell Intel over the network, through a package of its own; here that one takes a note."""
    (tmp_path / "openvino_telemetry.py").write_text("import pathlib\npathlib.Path(__file__ + '.used').touch()\n")
    (tmp_path / "network.onnx").write_bytes(exported.graphs["network"])
    code = """
import sys, pathlib
from modelport.release.openvino import OpenVinoGraph, write_openvino
folder = pathlib.Path(sys.argv[1])
print(OpenVinoGraph(write_openvino((folder / "network.onnx").read_bytes(), folder / "network", half=True)[0]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*.used"))


DETECTED = {
    "boxes": np.array([[10, 10, 50, 50], [60, 60, 90, 95], [0, 0, 5, 5]], np.float32),
    "scores": np.array([0.9, 0.6, 0.26], np.float32),
    "labels": np.array([1, 0, 1], np.int64),
}


def detected(order: list[int], **changes: object) -> dict[str, np.ndarray]:
    given = {name: value[order].copy() for name, value in DETECTED.items()}
    for name, value in changes.items():
        given[name][:] = value
    return given


@pytest.mark.parametrize(
    ("precision", "outputs", "problem"),
    [
        (FP32, detected([0, 1, 2]), None),
        (FP32, detected([1, 2, 0]), None),
        (FP32, detected([0, 1, 2], boxes=DETECTED["boxes"] + 0.05), None),
        (FP32, detected([0, 1, 2], boxes=DETECTED["boxes"] + 2), "3 of torch's 3 clear detections"),
        (FP32, detected([0, 1, 2], labels=1), "1 of torch's 3"),
        (FP32, detected([0, 0, 1, 2]), "1 of the 4 clear detections have no counterpart"),
        (FP32, detected([0, 1]), "1 of torch's 3"),
        (FP32, detected([0, 1, 2], scores=np.nan), "not finite"),
        (FP32, {**DETECTED, "scores": DETECTED["scores"][:2]}, "of 2, 3 detections"),
        # At a lower precision, what is not clearly above the threshold of 0.25 may come and go.
        (INT8, detected([0, 1]), None),
        (INT8, detected([0, 1, 2], boxes=DETECTED["boxes"] + 2), None),
        (INT8, detected([0, 1, 2], scores=DETECTED["scores"] - 0.1), None),
        (INT8, detected([1, 2]), "1 of torch's 2 clear detections"),
        (INT8, detected([0, 0, 0, 1]), "2 of the 4 clear detections"),
        (INT8, detected([]), "2 of torch's 2"),
        (INT8, detected([0, 1, 2], scores=DETECTED["scores"][::-1]), "have no counterpart"),
    ],
)
def test_detections_are_compared_as_sets(precision: str, outputs: dict[str, np.ndarray], problem: str | None) -> None:
    tolerances = tolerances_for(Task.DETECT, {"score": 0.25}, [precision])[precision]
    problems = compare(outputs, DETECTED, tolerances)
    assert (problem is None) == (problems == []), problems
    assert problem is None or problem in " ".join(problems)


def test_no_detections_are_equal_to_none() -> None:
    tolerances = tolerances_for(Task.DETECT, {"score": 0.25}, [FP32])[FP32]
    assert compare(detected([]), detected([]), tolerances) == []
    assert compare(detected([0]), detected([]), tolerances) == [
        "1 of the 1 clear detections have no counterpart; at most 0% may have none"
    ]


@pytest.mark.parametrize(
    ("task", "precision", "output", "change", "looser"),
    [
        (Task.SEGMENT, FP32, "mask", {}, False),
        (Task.SEGMENT, FP32, "mask", {"differing": 0.0005}, False),
        (Task.SEGMENT, FP32, "mask", {"differing": 1.0}, True),
        (Task.SEGMENT, FP32, "mask", {"absolute": 255.0}, True),
        (Task.SEGMENT, FP32, "mask", {"internal": True}, True),
        (Task.SEGMENT, FP32, "coverage", {"absolute": 0.002}, True),
        (Task.SEGMENT, FP32, "coverage", {"absolute": float("nan")}, True),
        (Task.SEGMENT, FP32, "coverage", {"absolute": None}, False),
        (Task.SEGMENT, FP32, "coverage", {"absolute": None, "differing": 0.5}, True),
        (Task.SEGMENT, FP32, "logits", {"compared": False}, True),
        (Task.SEGMENT, INT8, "logits", {"absolute": 9.0}, False),  # which the platform does not look at either
        (Task.DETECT, FP32, "boxes", {"overlap": 0.5}, True),
        (Task.DETECT, FP32, "boxes", {"above": 0.251}, False),
        (Task.DETECT, FP32, "boxes", {"above": 0.9}, True),
        (Task.DETECT, INT8, "boxes", {"differing": 0.3}, True),
        (Task.DETECT, INT8, "boxes", {"overlap": 0.9, "differing": None, "above": None}, False),
    ],
)
def test_tolerances_that_let_more_pass_than_the_platforms(
    task: Task, precision: str, output: str, change: dict[str, Any], looser: bool
) -> None:
    thresholds = {"score": 0.25}
    tolerances = tolerances_for(task, thresholds, [FP32, INT8])
    tolerances[precision][output] = tolerances[precision][output].model_copy(update=change)
    stored = ReleaseManifest.parse(STORED.read_bytes(), STORED)
    made = stored.model_copy(update={"task": task, "thresholds": thresholds, "tolerances": tolerances})
    found = loosened(made)
    assert [text.partition(" is ")[0] for text in found] == ([f"tolerances.{precision}.{output}"] if looser else [])
    assert loosened(stored) == [], "releases from before, and what they do not speak of"


def test_digests_of_releases_from_before_variants_are_what_they_were() -> None:
    stored = STORED.read_bytes()
    manifest = ReleaseManifest.parse(stored, STORED)
    assert manifest.to_bytes() == stored
    assert manifest.digest == "29e6456aac9911cfcf54aff69bfb55a788d042a14d7790a936c2d57777734538"
    assert (manifest.variants, manifest.precisions) == ({}, (FP32,))


@pytest.mark.parametrize(
    ("variants", "message"),
    [({"int8": "network/other.onnx"}, "not among its files"), ({"fp32": "network/model.onnx"}, "fp32 is no variant")],
)
def test_a_manifest_whose_variants_make_no_sense(variants: dict[str, str], message: str) -> None:
    document = json.loads(STORED.read_bytes()) | {"variants": variants}
    with pytest.raises(BadInput, match=message):
        ReleaseManifest.parse(json.dumps(document).encode(), STORED)


def test_what_clients_see_is_always_compared() -> None:
    document = json.loads(STORED.read_bytes())
    document["tolerances"]["fp32"]["mask"] = {"compared": False, "internal": True}
    ReleaseManifest.parse(json.dumps(document).encode(), STORED)
    document["tolerances"]["fp32"]["mask"]["internal"] = False
    with pytest.raises(BadInput, match="only for what flows between the steps"):
        ReleaseManifest.parse(json.dumps(document).encode(), STORED)


def test_a_release_with_int8_is_another_one_of_the_same_run(
    folder: ModelFolder, tracked_connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = redness.trained(folder, tracked_connection)
    first = build(folder, result, tracked_connection, folder.spec)
    saved = tmp_path / "connection.json"
    tracked_connection.save(saved)
    monkeypatch.setenv("MODELPORT_CONNECTION", str(saved))
    data = str(tmp_path / "data")

    def run(*arguments: str) -> str:
        answer = CliRunner().invoke(export_command, [folder.name, *arguments], catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return answer.output

    with pytest.raises(BadInput, match="carries no int8") as caught:
        run("--format", "openvino", "--precision", "int8", "--out", str(tmp_path / "nothing"))
    assert f"modelport export {folder.name} {first.digest} --precision int8" in (caught.value.remedy or "")
    with pytest.raises(BadInput, match="trained on are not there"):
        run("--precision", "int8")
    other = redness.write_dataset(tmp_path / "other")
    redness.write_example(other / "train", "more", 77)
    for way in (["--precision", "int8"], ["--compare"]):
        with pytest.raises(BadInput, match="was trained on") as caught:
            run(*way, "--data", str(other))
        assert caught.value.key == "--data"
    printed = run("--precision", "int8", "--data", data)
    assert "served    in fp32" in printed
    assert f"modelport:models.{folder.name}.serve.precision: int8" in printed
    registry = Registry.connect(tracked_connection)
    rows = registry.versions(folder.name)
    assert [row.tags.get("modelport.variants") for row in rows] == [None, "int8"]
    assert {row.run_id for row in rows} == {result.mlflow_run_id}
    second = rows[1].digest
    assert f"release   {second} (version 2 in MLflow)" in printed

    # The training run still has one release of its own, and the same variant is never made twice.
    assert [row.digest for row in registry.of_run(folder.name, result.mlflow_run_id)] == [first.digest, second]
    assert build(folder, result, tracked_connection, folder.spec) == first
    run(first.digest[:12], "--precision", "int8", "--data", data)
    assert len(registry.versions(folder.name)) == 2

    place = tmp_path / ".modelport" / "releases" / folder.name
    release, plain = Release.open(place / second, second), Release.open(first.path, first.digest)
    assert set(release.manifest.files) - set(plain.manifest.files) == {INT8_FILE, CALIBRATION_FILE}
    assert release.manifest.precisions == (FP32, INT8)
    dataset = load_dataset(data, folder.spec, store=None, cache=tmp_path / "cache")
    record = json.loads(release.read(CALIBRATION_FILE))
    assert set(record["images"]) == {dataset.train.entry(index).sha256 for index in range(len(dataset.train))}
    runtime = Runtime(release, precision=INT8)
    for golden in release.golden():
        outputs = runtime.predict(decode(golden.data))
        assert compare(outputs, golden.expected, release.manifest.tolerances[INT8]) == []
    with pytest.raises(BadInput, match="carries int8 already"):
        with_int8(release, dataset.train, place)
    with pytest.raises(BadInput, match="carries no int8"):
        Runtime(plain, precision=INT8)

    report = run(second[:12], "--compare", "--data", data, "--out", str(tmp_path / "report"))
    assert "onnx int8" in report
    document = json.loads((tmp_path / "report" / "variants.json").read_text())
    assert "the training may have had another" in document["split"], "its run key is not that of this model.yaml"
    rows = document["rows"]
    assert [row["name"] for row in rows][:4] == ["onnx fp32", "openvino fp32", "onnx int8", "openvino int8"]
    assert all(row["metrics"]["dice"] > 0.9 for row in rows[:4])
    assert "tensorrt" in (tmp_path / "report" / "variants.md").read_text()


def test_int8_that_model_yaml_asks_for_is_in_the_release_at_once(
    folder: ModelFolder, tracked_connection: Connection
) -> None:
    result = redness.trained(folder, tracked_connection)
    first = build(folder, result, tracked_connection, folder.spec)
    file = folder.path / "model.yaml"
    file.write_text(file.read_text() + "serve: {precision: int8}\n")
    wanting = ModelFolder(folder.path)
    result = type(result)(**{**result.__dict__, "spec": wanting.spec, "code_digest": wanting.bundle().digest})

    second = build(wanting, result, tracked_connection, wanting.spec)
    release = Release.open(second.path, second.digest)
    assert release.manifest.variants == {INT8: INT8_FILE}
    assert b"precision: int8" in release.read("model.yaml"), "servers read it there"
    for chosen, answered in ((None, Precision.INT8), ("fp32", Precision.FP32)):
        with asking(folder.name, release=str(second.path), precision=chosen) as ask:
            assert ask(redness.encode_png(IMAGES[0]), False).precision is answered
    with asking(folder.name, release=str(first.path)) as ask:
        assert ask(redness.encode_png(IMAGES[0]), False).precision is Precision.FP32
    assert build(wanting, result, tracked_connection, wanting.spec) == second
    assert second.digest != first.digest
    assert len(Registry.connect(tracked_connection).versions(folder.name)) == 2


@pytest.mark.parametrize(
    ("seed", "name"), [(0, "selection split"), (7, "selection split that model.yaml gives (seed 0")]
)
def test_the_selection_split_is_called_so_where_the_training_had_it(folder: ModelFolder, seed: int, name: str) -> None:
    trained = redness.trained(folder)
    spec = apply_overrides(folder.spec, [f"train.seed={seed}", "train.parameters.size=32"])
    key = run_key(spec, trained.code_digest, trained.data_digest, 2)
    built = build(folder, redness.trained(folder, run_key=key), None, spec)
    called = _selection_name(Release.open(built.path, built.digest), folder.spec)
    assert called == name if seed == folder.spec.train.seed else called.startswith(name)


def test_foreign_images_do_not_calibrate(folder: ModelFolder, tmp_path: Path) -> None:
    built = build(folder, redness.trained(folder), None, folder.spec)
    release = Release.open(built.path, built.digest)
    for number, file in enumerate(sorted((tmp_path / "data").rglob("images/*.png"))):
        file.write_bytes(redness.encode_png(redness.image(900 + number, 40, 40)))
    for file in (tmp_path / "data").rglob("masks/*.png"):
        file.write_bytes(redness.encode_png(np.zeros((40, 40), np.uint8)))
    other = load_dataset(str(tmp_path / "data"), folder.spec, store=None, cache=tmp_path / "cache2")
    with pytest.raises(BadInput, match="learned from none of the images") as caught:
        with_int8(release, other.train, tmp_path / "made")
    assert caught.value.key == "--data"


@pytest.fixture
def released(folder: ModelFolder, tmp_path: Path) -> Release:
    result = redness.trained(folder)
    built = build(folder, result, None, folder.spec)
    release = Release.open(built.path, built.digest)
    return with_int8(release, result.dataset.train, tmp_path / "made")


def test_files_for_use_elsewhere_are_listed_and_answer_alike(released: Release, tmp_path: Path) -> None:
    for kind, precision, network in (
        (Format.ONNX, Precision.INT8, {"network.onnx"}),
        (Format.OPENVINO, Precision.FP16, {"network.xml", "network.bin"}),
        (Format.OPENVINO, Precision.INT8, {"network.xml", "network.bin"}),
    ):
        folder = tmp_path / f"{kind}-{precision}"
        written = write_format(released, kind, precision, folder)
        document = json.loads((folder / EXPORT_FILE).read_text())
        assert (document["release"], document["format"], document["precision"]) == (released.digest, kind, precision)
        assert set(document["files"]) == {*network, "preprocess.onnx", "postprocess.onnx", "model.yaml"}
        assert {path.name for path in folder.iterdir()} == {*written.files, EXPORT_FILE}
        for name, entry in document["files"].items():
            assert sha256((folder / name).read_bytes()) == entry["sha256"]
    golden = next(released.golden())
    pixels = Graph(released.graph("preprocess")).run({"image": decode(golden.data)})
    logits = OpenVinoGraph(tmp_path / "openvino-fp16" / "network.xml").run(pixels)["logits"]
    assert np.mean((logits > 0) != (golden.expected["logits"] > 0)) <= 0.005
    with pytest.raises(BadInput, match="not written in fp16"):
        write_format(released, Format.ONNX, Precision.FP16, tmp_path / "half")
    with pytest.raises(BadInput, match="holds other files"):
        write_format(released, Format.ONNX, Precision.FP32, released.folder)

    # The same again replaces what it wrote; anything else is refused and changes nothing.
    folder = tmp_path / "openvino-int8"
    listed = json.loads((folder / EXPORT_FILE).read_text())
    (folder / "stale.onnx").touch()
    (tmp_path / "outside.onnx").touch()
    listed["files"] |= {"stale.onnx": {}, "../outside.onnx": {}}
    (folder / EXPORT_FILE).write_text(json.dumps(listed))
    before = (folder / "network.xml").read_bytes()
    for kind, precision in ((Format.ONNX, Precision.INT8), (Format.OPENVINO, Precision.FP16)):
        with pytest.raises(BadInput, match=f"holds release {released.digest[:12]} of .* already, as openvino int8"):
            write_format(released, kind, precision, folder)
    assert (folder / "network.xml").read_bytes() == before
    written = write_format(released, Format.OPENVINO, Precision.INT8, folder)
    assert {path.name for path in folder.iterdir()} == {*written.files, EXPORT_FILE}
    assert (tmp_path / "outside.onnx").exists()
    (folder / EXPORT_FILE).write_text("[]")
    with pytest.raises(BadInput, match="does not say what is exported"):
        write_format(released, Format.OPENVINO, Precision.INT8, folder)


STAND_IN = """\
#!{python}
# Stands in for NVIDIA's trtexec, which needs a GPU: says its version, checks what it is told, writes a plan.
import pathlib, sys
print("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] # " + " ".join(sys.argv))
if "--help" in sys.argv:
    sys.exit(0)
options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
import onnx
graph = onnx.load(options["--onnx"]).graph
assert [tensor.name for tensor in graph.input] == ["input"]
if "--int8" in options:
    zeros = [n.input[2] for n in graph.node if n.op_type == "QuantizeLinear"]
    values = {{t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}}
    assert zeros and all(values[name] == 0 and values[name].dtype == "int8" for name in zeros), "no zero points"
if "{mood}" == "broken":
    print("[E] Error[4]: no implementation for layer", file=sys.stderr)
    sys.exit(1)
pathlib.Path(options["--saveEngine"]).write_text(repr(sorted(options.items())))
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, mood: str = "well", gpu: str = "NVIDIA L4, 8.9") -> None:
    folder.mkdir(exist_ok=True)
    programs = {
        "trtexec": STAND_IN.format(python=sys.executable, mood=mood),
        "nvidia-smi": f"#!/bin/sh\necho '{gpu}'\n",
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_plan_is_built_by_trtexec_and_named_by_what_it_is_good_for(
    released: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "bin", monkeypatch)
    out = tmp_path / "plan"
    written = write_format(released, Format.TENSORRT, Precision.FP16, out)
    graph = sha256((out / "network.onnx").read_bytes())
    (plan,) = out.glob("*.plan")
    assert plan.name == f"network-{graph[:12]}-fp16-trt101303-sm89-nvidia-l4.plan"
    told = dict(eval(plan.read_text()))
    assert told["--minShapes"] == "input:1x3x32x32"
    assert told["--optShapes"] == told["--maxShapes"] == "input:8x3x32x32"
    assert "--fp16" in told
    assert "--int8" not in told
    assert told["--timingCacheFile"].endswith("timing-trt101303-sm89.cache")
    assert "TensorRT 101303 on NVIDIA L4 only" in (written.remark or "")
    assert plan.name in json.loads((out / EXPORT_FILE).read_text())["files"]

    # Built already: nothing is run again; for another GPU there is another plan beside it.
    before = plan.stat().st_mtime_ns
    write_format(released, Format.TENSORRT, Precision.FP16, out)
    assert plan.stat().st_mtime_ns == before
    stand_in(tmp_path / "bin", monkeypatch, gpu="NVIDIA H100 80GB HBM3, 9.0")
    write_format(released, Format.TENSORRT, Precision.FP16, out)
    assert len(list(out.glob("*.plan"))) == 2
    assert {path.name for path in out.glob("*.plan")} < json.loads((out / EXPORT_FILE).read_text())["files"].keys()

    images = calibration(*(redness.image(seed, 48, 64) for seed in range(4)))
    write_format(released, Format.TENSORRT, Precision.INT8, tmp_path / "int8", images)
    assert len(list((tmp_path / "int8").glob("*-int8-*.plan"))) == 1

    stand_in(tmp_path / "bin", monkeypatch, mood="broken")
    with pytest.raises(ModelportError, match="no implementation for layer"):
        write_format(released, Format.TENSORRT, Precision.FP32, tmp_path / "broken")
    assert not list((tmp_path / "broken").glob("*.p*l*"))


def test_without_a_gpu_it_says_what_to_run_on_the_node(
    released: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(Unavailable, match="no trtexec") as caught:
        write_format(released, Format.TENSORRT, Precision.FP16, tmp_path / "plan")
    remedy = caught.value.remedy or ""
    assert f'docker run --rm --gpus all --network none -v "$PWD:/plan" {Image.TRITON} ' in remedy
    assert "--onnx=/plan/network.onnx" in remedy
    assert "--maxShapes=input:8x3x32x32 --fp16" in remedy
    listed = json.loads((tmp_path / "plan" / EXPORT_FILE).read_text())["files"]
    assert "network.onnx" in listed, "all that is needed there is written"


def test_plans_of_different_things_have_different_names() -> None:
    target = tensorrt.Target("101303", "NVIDIA L4", "8.9")
    names = {
        target.plan_name("a" * 64, Precision.FP16),
        target.plan_name("b" * 64, Precision.FP16),
        target.plan_name("a" * 64, Precision.INT8),
        tensorrt.Target("101401", "NVIDIA L4", "8.9").plan_name("a" * 64, Precision.FP16),
        tensorrt.Target("101303", "NVIDIA A100-SXM4-40GB", "8.0").plan_name("a" * 64, Precision.FP16),
    }
    assert len(names) == 5
    config = parse_config(redness.CONFIGS["postprocess"], "here")
    assert tensorrt.shapes(config)["--maxShapes"].startswith("logits:1x1x32x32")


def test_a_release_that_has_expired_from_staging_is_taken_from_what_was_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELPORT_STATE", str(tmp_path))
    digest, key = "a" * 64, S3Key(access_key="a", secret_key="s")
    store, promoted = Mock(list=Mock(return_value=[])), {digest}

    def fetch(store: object, prefix: str, digest: str, place: Path) -> str:
        if prefix == "releases" and digest in promoted:
            return "the release"
        raise NotFound("there is no such object")

    monkeypatch.setattr(Release, "fetch", fetch)

    def found(*roles: Role) -> object:
        connection = Connection(s3_endpoint="http://127.0.0.1:9", s3_keys=dict.fromkeys(roles, key), tracking_uri="")
        return _found(store, connection, "m", digest)

    assert found(Role.TRAINER, Role.SERVER) == "the release"
    with pytest.raises(Refused, match="has expired from staging, and this connection may not read"):
        found(Role.TRAINER)
    promoted.clear()
    with pytest.raises(BadInput, match="has expired from staging, and was never promoted"):
        found(Role.TRAINER, Role.SERVER)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do"),
        (["--precision", "fp16"], "is served from the graph that every release has"),
        (["--format", "onnx"], "say where"),
        (["--compare", "--precision", "int8"], "measures every variant"),
        (["--precision", "int8", "--out", "x"], "--out goes with"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str) -> None:
    answer = CliRunner().invoke(export_command, ["m", *arguments])
    assert answer.exit_code == 2
    assert message in answer.output
