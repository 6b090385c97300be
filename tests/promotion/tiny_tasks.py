"""Releases and held-out splits of a classification and of a detection, small enough to make and to judge in moments.

Both tell red images (class 1) from dark ones (class 0) by their mean; the detection says that of one box in a fixed
place.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelport.contract import ModelSpec, Task, step_names
from modelport.contract.spec import parse_spec
from modelport.imaging import encode_png
from modelport.release import (
    FP32,
    INT8,
    TRAINING_DATA_FILE,
    Graph,
    Release,
    Tolerance,
    canonical_json,
    sha256,
    tolerances_for,
)
from modelport.release.store import write_release
from tests.serving import tiny_release as tiny
from tests.serving import tiny_tasks

SIDE = 64
BOX = (8, 16, 40, 48)
"""Where the detection's box is, x1, y1, x2, y2 in pixels of an image of SIDE."""
INT8_GRAPH = "network/int8.onnx"

_SPEC = """
name: {name}
task: {task}
owner: tests
license: Apache-2.0
classes: [{{name: dark}}, {{name: red}}]
data: {{name: {name}}}
train: {{select: {{metric: loss}}}}
gate: {gate}
"""


def spec(task: Task, gate: str = "", **serve: Any) -> ModelSpec:
    """``model.yaml`` of a task, with this `gate` section and these keys of `serve`."""
    gate = gate or {
        Task.CLASSIFY: "{metric: accuracy, minimum: 0.5}",
        Task.DETECT: "{metric: map50, minimum: 0.5}",
    }.get(task, "{metric: dice, minimum: 0.5}")
    found = parse_spec(_SPEC.format(name=f"tiny_{task}", task=task, gate=gate))
    return found.model_copy(update={"serve": found.serve.model_copy(update=serve)})


def image(redness: float, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [SIDE, SIDE, 3], red to this share of the full scale."""
    pixels = np.random.default_rng(seed).integers(0, 30, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:, :, 0] = round(redness * 255)
    return pixels


def network(task: Task, threshold: float = 0.5, sharpness: float = 8.0, *, also_image: bool = False) -> bytes:
    """float32 input [B, 3, 32, 32] to logits [B, 2] or candidates [B, 1, 6]; red is what is redder than `threshold`.

    With `also_image` it gives a black image as well, of a name that there is already.
    """
    weight = np.zeros((3, 2), np.float32)
    weight[0] = -sharpness, sharpness
    bias = np.array([sharpness * threshold, -sharpness * threshold], np.float32)
    constants = [_constant("axes", np.array([2, 3])), _constant("weight", weight), _constant("bias", bias)]
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["means"], keepdims=0),
        helper.make_node("Gemm", ["means", "weight", "bias"], ["logits"]),
    ]
    if task is Task.CLASSIFY:
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2])
    else:
        x1, y1, x2, y2 = (value / 2 for value in BOX)  # in pixels of the network's input, which is half as large
        box = np.array([[[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]]], np.float32)
        constants += [_constant("box", box), _constant("one", np.array([1])), _constant("zero", np.array([0]))]
        nodes += [
            helper.make_node("Sigmoid", ["logits"], ["scores"]),
            helper.make_node("Unsqueeze", ["scores", "one"], ["rows"]),
            # As many boxes as there are images.
            helper.make_node("Slice", ["rows", "zero", "one", "last"], ["column"]),
            helper.make_node("Mul", ["column", "nothing"], ["zeros"]),
            helper.make_node("Add", ["zeros", "box"], ["boxes"]),
            helper.make_node("Concat", ["boxes", "rows"], ["candidates"], axis=2),
        ]
        constants += [_constant("last", np.array([2])), _constant("nothing", np.array(0, np.float32))]
        output = helper.make_tensor_value_info("candidates", TensorProto.FLOAT, ["B", 1, 6])
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", 3, tiny.SIZE, tiny.SIZE])
    outputs = [output]
    if also_image:
        constants.append(_constant("black", np.zeros((SIDE, SIDE, 3), np.uint8)))
        nodes.append(helper.make_node("Identity", ["black"], ["image"]))
        outputs.append(helper.make_tensor_value_info("image", TensorProto.UINT8, [SIDE, SIDE, 3]))
    return _model(helper.make_graph(nodes, "network", [given], outputs, constants))


def postprocess(task: Task) -> bytes:
    """To probabilities [2], or to boxes [1, 4], scores [1] and labels [1]."""
    picture = helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", 3])
    if task is Task.CLASSIFY:
        nodes = [
            helper.make_node("Softmax", ["logits"], ["soft"], axis=1),
            helper.make_node("Reshape", ["soft", "two"], ["probabilities"]),
        ]
        given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])
        outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [2])]
        return _model(
            helper.make_graph(nodes, "postprocess", [given, picture], outputs, [_constant("two", np.array([2]))])
        )
    corners = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32) * 2
    nodes = [
        helper.make_node("Squeeze", ["candidates", "zero"], ["rows"]),
        helper.make_node("Slice", ["rows", "zero", "four", "one"], ["centres"]),
        helper.make_node("Slice", ["rows", "four", "six", "one"], ["classes"]),
        helper.make_node("MatMul", ["centres", "corners"], ["boxes"]),
        helper.make_node("ReduceMax", ["classes", "one"], ["scores"], keepdims=0),
        helper.make_node("ArgMax", ["classes"], ["labels"], axis=1, keepdims=0),
    ]
    given = helper.make_tensor_value_info("candidates", TensorProto.FLOAT, [1, 1, 6])
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["K", 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["K"]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, ["K"]),
    ]
    constants = [
        *(_constant(name, np.array([value])) for name, value in (("zero", 0), ("one", 1), ("four", 4), ("six", 6))),
        _constant("corners", corners),
    ]
    return _model(helper.make_graph(nodes, "postprocess", [given, picture], outputs, constants))


def write(
    place: Path,
    task: Task,
    *,
    changes: Mapping[str, bytes] | None = None,
    int8: bytes | None = None,
    tolerances: Mapping[str, Mapping[str, Tolerance]] | None = None,
    thresholds: Mapping[str, float] | None = None,
    **options: float,
) -> Release:
    """A release of a task, with a network of these options, `int8` as its int8 graph, and `changes` in its files."""
    graphs = {"preprocess": tiny.preprocess(), "network": network(task, **options), "postprocess": postprocess(task)}
    # As red as can be: networks that draw the line elsewhere are as sure of it.
    pixels = image(1.0)
    tensors: dict[str, NDArray[Any]] = {"image": pixels}
    for graph in graphs.values():
        tensors |= Graph(graph).run(tensors)
    wanted = step_names(task)["postprocess"].outputs
    model = spec(task).name
    files = {
        **{f"{step}/model.onnx": data for step, data in graphs.items()},
        **({} if int8 is None else {INT8_GRAPH: int8}),
        "golden/ramp.png": encode_png(pixels),
        "golden/ramp.npz": npz(**{name: tensors[name] for name in wanted}),
        TRAINING_DATA_FILE: canonical_json({"images": [sha256(b"an image that was trained on")]}),
        **{
            f"triton/{name}/config.pbtxt": text.encode()
            for name, text in tiny_tasks.configs(task, model, places=1).items()
        },
        **(changes or {}),
    }
    manifest = tiny.manifest(model, files).model_copy(
        update={
            "task": task,
            "classes": spec(task).classes,
            "tolerances": tolerances_for(task, {}, [FP32, INT8]) | (tolerances or {}),
            "thresholds": thresholds or {},
            "variants": {} if int8 is None else {"int8": INT8_GRAPH},
        }
    )
    return write_release(manifest, files, place)


def npz(**tensors: NDArray[Any]) -> bytes:
    """Golden outputs of these names."""
    stream = io.BytesIO()
    np.savez(stream, **tensors)
    return stream.getvalue()


def write_data(root: Path, task: Task, reds: Sequence[float], labels: Sequence[int | None]) -> Path:
    """A data set whose held-out split has images of this redness and class; None is an image without objects."""
    for split, rednesses, ids in (("train", (0.11, 0.91, 0.12, 0.92), (0, 1, 0, 1)), ("validation", reds, labels)):
        for number, (redness, label) in enumerate(zip(rednesses, ids, strict=True)):
            data = encode_png(image(redness, seed=number))
            if task is Task.CLASSIFY:
                assert label is not None
                _put(root / split / ("dark", "red")[label] / f"{number}.png", data)
                continue
            x1, y1, x2, y2 = (value / SIDE for value in BOX)
            row = "" if label is None else f"{label} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n"
            _put(root / split / "images" / f"{number}.png", data)
            _put(root / split / "labels" / f"{number}.txt", row.encode())
    if task is Task.DETECT:
        (root / "classes.txt").write_text("dark\nred\n")
    return root


def _put(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def _constant(name: str, value: NDArray) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def _model(graph: onnx.GraphProto) -> bytes:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
