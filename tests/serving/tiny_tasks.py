"""The same as `tiny_release` for the other tasks: a detector of four places, and a classifier of two colours.

Both look for red and blue. An image that is bright in green breaks them, as a damaged model would be: the detector then
names a class that there is not, the classifier's probabilities are not numbers.
"""

import io
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelport.contract import TASKS, ClassSpec, Task, step_names
from modelport.imaging import encode_png
from modelport.release import (
    FP32,
    FileEntry,
    GoldenEntry,
    Graph,
    ReleaseManifest,
    sha256,
    tolerances_for,
)
from tests.serving.tiny_release import SIZE, image, preprocess

CLASSES = (ClassSpec(name="red", color="#ff0000"), ClassSpec(name="blue", color="#0000ff"))
BREAKING = 150
"""Mean of green from which the models break."""
_HALF = SIZE // 2


def breaking(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """An image on which both models break."""
    pixels = image(0, height, width)
    pixels[:, :, 1] = 220
    return pixels


def _constants(**values: NDArray) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _graph(name: str, nodes: list, inputs: list, outputs: list, **constants: NDArray) -> bytes:
    graph = helper.make_graph(nodes, name, inputs, outputs, _constants(**constants))
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


_node, _value = helper.make_node, helper.make_tensor_value_info
_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64
_IMAGE = _value("image", TensorProto.UINT8, ["H", "W", 3])
_INPUT = _value("input", _FLOAT, ["B", 3, SIZE, SIZE])


def _detect_network() -> bytes:
    """input to candidates float32 [B, 4, 6]: the quarters of the image, with their means of red and blue."""
    quarters = np.array(
        [[[x, y, _HALF - 2, _HALF - 4] for y in (_HALF / 2, 3 * _HALF / 2) for x in (_HALF / 2, 3 * _HALF / 2)]],
        np.float32,
    )
    nodes = [
        _node("AveragePool", ["input"], ["means"], kernel_shape=[_HALF, _HALF], strides=[_HALF, _HALF]),
        _node("Reshape", ["means", "flat"], ["rows"]),
        _node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        _node("Gather", ["columns", "colors"], ["scores"], axis=2),
        _node("Mul", ["first", "scores_0"], ["nothing"]),
        _node("Add", ["nothing", "quarters"], ["boxes"]),
        _node("Concat", ["boxes", "scores"], ["candidates"], axis=2),
    ]
    nodes.insert(4, _node("Gather", ["scores", "only_first"], ["scores_0"], axis=2))
    return _graph(
        "network",
        nodes,
        [_INPUT],
        [_value("candidates", _FLOAT, ["B", 4, 6])],
        flat=np.array([0, 3, 4], np.int64),
        colors=np.array([0, 2], np.int64),
        only_first=np.array([0], np.int64),
        first=np.array(0.0, np.float32),
        quarters=quarters,
    )


def _detect_postprocess(threshold: float) -> bytes:
    """candidates and image to boxes, scores and labels of what scores above `threshold`, the best first."""
    corners = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32)
    nodes = [
        _node("Squeeze", ["candidates", "zeroth"], ["rows"]),
        _node("Slice", ["rows", "at0", "at4", "at1"], ["boxes_in"]),
        _node("Slice", ["rows", "at4", "at6", "at1"], ["by_class"]),
        _node("ReduceMax", ["by_class", "at1"], ["best"], keepdims=0),
        _node("ArgMax", ["by_class"], ["best_class"], axis=1, keepdims=0),
        _node("Greater", ["best", "threshold"], ["kept"]),
        _node("NonZero", ["kept"], ["kept_rows"]),
        _node("Squeeze", ["kept_rows", "zeroth"], ["kept_ids"]),
        _node("Gather", ["best", "kept_ids"], ["kept_scores"]),
        _node("Shape", ["kept_scores"], ["count"]),
        _node("TopK", ["kept_scores", "count"], ["scores", "order"]),
        _node("Gather", ["kept_ids", "order"], ["ids"]),
        _node("Gather", ["boxes_in", "ids"], ["chosen"]),
        _node("MatMul", ["chosen", "corners"], ["small"]),
        _node("Shape", ["image"], ["shape"]),
        _node("Gather", ["shape", "sides"], ["sizes"]),
        _node("Cast", ["sizes"], ["sizes_f"], to=_FLOAT),
        _node("Div", ["sizes_f", "side"], ["scale"]),
        _node("Mul", ["small", "scale"], ["boxes"]),
        _node("Gather", ["image", "green_id"], ["green"], axis=2),
        _node("Cast", ["green"], ["green_f"], to=_FLOAT),
        _node("ReduceMean", ["green_f"], ["green_mean"], keepdims=0),
        _node("Greater", ["green_mean", "breaking"], ["broken"]),
        _node("Cast", ["broken"], ["broken_i"], to=_INT64),
        _node("Mul", ["broken_i", "seven"], ["added"]),
        _node("Gather", ["best_class", "ids"], ["known"]),
        _node("Add", ["known", "added"], ["labels"]),
    ]
    return _graph(
        "postprocess",
        nodes,
        [_value("candidates", _FLOAT, [1, 4, 6]), _IMAGE],
        [_value("boxes", _FLOAT, ["K", 4]), _value("scores", _FLOAT, ["K"]), _value("labels", _INT64, ["K"])],
        zeroth=np.array([0], np.int64),
        at0=np.array([0], np.int64),
        at1=np.array([1], np.int64),
        at4=np.array([4], np.int64),
        at6=np.array([6], np.int64),
        threshold=np.array(threshold, np.float32),
        corners=corners,
        sides=np.array([1, 0, 1, 0], np.int64),
        side=np.array(SIZE, np.float32),
        green_id=np.array(1, np.int64),
        breaking=np.array(BREAKING, np.float32),
        seven=np.array(7, np.int64),
    )


def _classify_network(sharpness: float) -> bytes:
    """input to logits float32 [B, 2]: means of red and blue, times `sharpness`."""
    nodes = [
        _node("ReduceMean", ["input", "plane"], ["means"], keepdims=0),
        _node("Gather", ["means", "colors"], ["seen"], axis=1),
        _node("Mul", ["seen", "sharpness"], ["sharp"]),
        # The root of less than nothing is no number.
        _node("Gather", ["means", "green"], ["green_mean"], axis=1),
        _node("Sub", ["breaking", "green_mean"], ["left"]),
        _node("Sqrt", ["left"], ["root"]),
        _node("Mul", ["root", "nought"], ["nothing"]),
        _node("Add", ["sharp", "nothing"], ["logits"]),
    ]
    return _graph(
        "network",
        nodes,
        [_INPUT],
        [_value("logits", _FLOAT, ["B", 2])],
        plane=np.array([2, 3], np.int64),
        colors=np.array([0, 2], np.int64),
        green=np.array([1], np.int64),
        sharpness=np.array(sharpness, np.float32),
        breaking=np.array(BREAKING / 255, np.float32),
        nought=np.array(0.0, np.float32),
    )


def _classify_postprocess() -> bytes:
    """logits to probabilities float32 [2]."""
    return _graph(
        "postprocess",
        [_node("Softmax", ["logits"], ["row"], axis=1), _node("Squeeze", ["row", "zeroth"], ["probabilities"])],
        [_value("logits", _FLOAT, [1, 2]), _IMAGE],
        [_value("probabilities", _FLOAT, [2])],
        zeroth=np.array([0], np.int64),
    )


def graphs(task: Task, knob: float) -> Mapping[str, bytes]:
    """The three graphs by step; `knob` is the detector's threshold, or the classifier's sharpness."""
    steps = {"preprocess": preprocess()}
    if task is Task.DETECT:
        return steps | {"network": _detect_network(), "postprocess": _detect_postprocess(knob)}
    return steps | {"network": _classify_network(knob), "postprocess": _classify_postprocess()}


def answer(task: Task, pixels: NDArray[np.uint8], knob: float) -> dict[str, NDArray]:
    """Every named tensor that a release gives for an image, from the graphs in this process."""
    tensors: dict[str, NDArray] = {"image": pixels}
    for graph in graphs(task, knob).values():
        tensors |= Graph(graph).run(tensors)
    del tensors["image"], tensors["input"]
    return tensors


_FLOWS = {Task.DETECT: ("candidates", [4, 6]), Task.CLASSIFY: ("logits", [2])}
_DIMS = {"boxes": [-1, 4], "scores": [-1], "labels": [-1], "probabilities": [2]}


def _config(header: str, inputs: Mapping[str, tuple[str, list[int]]], outputs: Mapping[str, tuple[str, list[int]]]):
    lines = [header]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        lines += [f'{kind} {{ name: "{n}" data_type: {t} dims: {d} }}' for n, (t, d) in tensors.items()]
    return "\n".join(lines) + "\n"


def configs(task: Task, model: str, places: int = 4) -> Mapping[str, str]:
    """Text of each ``config.pbtxt``, by folder; a detector looks at so many `places`."""
    flow, dims = _FLOWS[task]
    if task is Task.DETECT:
        dims = [places, *dims[1:]]
    plain, batched = 'backend: "onnxruntime"\nmax_batch_size: 0', 'backend: "onnxruntime"\nmax_batch_size: 8'
    taken = {"image": ("TYPE_UINT8", [-1, -1, 3])}
    given = {tensor.name: (tensor.data_type, _DIMS[tensor.name]) for tensor in TASKS[task].outputs}
    steps = "".join(
        f'  step {{ model_name: "{step}" model_version: -1 '
        + " ".join(f'input_map {{ key: "{name}" value: "{name}" }}' for name in names.inputs)
        + " "
        + " ".join(f'output_map {{ key: "{name}" value: "{name}" }}' for name in names.outputs)
        + " }\n"
        for step, names in step_names(task).items()
    )
    return {
        model: _config('platform: "ensemble"\nmax_batch_size: 0', taken, given)
        + f"ensemble_scheduling {{\n{steps}}}\n",
        "preprocess": _config(plain, taken, {"input": ("TYPE_FP32", [1, 3, SIZE, SIZE])}),
        "network": _config(batched, {"input": ("TYPE_FP32", [3, SIZE, SIZE])}, {flow: ("TYPE_FP32", dims)}),
        "postprocess": _config(plain, {flow: ("TYPE_FP32", [1, *dims]), **taken}, given),
    }


_SPEC = """
name: {model}
task: {task}
owner: tests
license: Apache-2.0
classes:
  - {{name: red, color: "#ff0000"}}
  - {{name: blue, color: "#0000ff"}}
data: {{name: ramps}}
train:
  select: {{metric: {metric}}}
gate: {{metric: {metric}, minimum: 0.5}}
"""


def release(
    task: Task, model: str, knob: float, thresholds: Mapping[str, float] | None = None
) -> tuple[ReleaseManifest, dict[str, bytes]]:
    """A release: its manifest, and every other file of it."""
    pixels = image()
    files = {f"{step}/model.onnx": data for step, data in graphs(task, knob).items()}
    files |= {f"triton/{name}/config.pbtxt": text.encode() for name, text in configs(task, model).items()}
    files["model.yaml"] = _SPEC.format(model=model, task=task.value, metric=TASKS[task].metrics[0]).encode()
    files["golden/ramp.png"] = encode_png(pixels)
    stream = io.BytesIO()
    np.savez(stream, **answer(task, pixels, knob))
    files["golden/ramp.npz"] = stream.getvalue()
    some, limits = sha256(b"tests"), dict(thresholds or {})
    manifest = ReleaseManifest(
        model=model,
        task=task,
        code_digest=some,
        data_digest=some,
        heldout_digest=some,
        run_key="tests",
        mlflow_run_id=None,
        parameters={},
        classes=CLASSES,
        thresholds=limits,
        license="Apache-2.0",
        metrics={},
        files={path: FileEntry(sha256=sha256(data), size=len(data)) for path, data in files.items()},
        golden=(GoldenEntry(file="golden/ramp.png", outputs="golden/ramp.npz"),),
        tolerances=tolerances_for(task, limits, (FP32,)),
        versions={"opset": "18"},
    )
    return manifest, files
