"""A segmentation small enough to build in milliseconds: three ONNX graphs that find what is redder than a threshold.

The real graphs' names, types and dynamic sizes, without torch. Two versions with different thresholds answer visibly
differently, so that a test can tell which one an answer came from.
"""

import io
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelport.contract import ClassSpec, Task
from modelport.imaging import encode_png
from modelport.release import FP32, FileEntry, GoldenEntry, Graph, ReleaseManifest, Tolerance, sha256

SIZE = 32
_OPSET = [helper.make_opsetid("", 18)]


def _model(graph: onnx.GraphProto) -> bytes:
    return helper.make_model(graph, opset_imports=_OPSET, ir_version=10).SerializeToString()


def _constant(name: str, value: NDArray) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def preprocess(*, flipped: bool = False, only_size: tuple[int, int] | None = None) -> bytes:
    """uint8 image [H, W, 3] to float32 input [1, 3, 32, 32], 0 to 1.

    `flipped` swaps red and blue; with `only_size` it fails on images of another height and width.
    """
    order = [2, 1, 0] if flipped else [0, 1, 2]
    nodes = [
        helper.make_node("Reshape", ["image", "taken"], ["checked"]),
        helper.make_node("Gather", ["checked", "order"], ["ordered"], axis=2),
        helper.make_node("Cast", ["ordered"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["planes", "axis"], ["batch"]),
        helper.make_node("Div", ["batch", "scale"], ["unit"]),
        helper.make_node("Resize", ["unit", "", "", "sizes"], ["input"], mode="linear", antialias=1),
    ]
    graph = helper.make_graph(
        nodes,
        "preprocess",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", 3])],
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [
            # Zeros keep the image's own size.
            _constant("taken", np.array([*(only_size or (0, 0)), 3], np.int64)),
            _constant("order", np.array(order, np.int64)),
            _constant("axis", np.array([0], np.int64)),
            _constant("scale", np.array(255.0, np.float32)),
            _constant("sizes", np.array([1, 3, SIZE, SIZE], np.int64)),
        ],
    )
    return _model(graph)


def network(threshold: float = 0.5) -> bytes:
    """float32 input [B, 3, 32, 32] to float32 logits [B, 1, 32, 32]: how much redder than `threshold` a pixel is."""
    weight = np.array([8.0, 0.0, 0.0], np.float32).reshape(1, 3, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weight", "bias"], ["logits"])],
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 1, SIZE, SIZE])],
        [_constant("weight", weight), _constant("bias", np.array([-8.0 * threshold], np.float32))],
    )
    return _model(graph)


def postprocess() -> bytes:
    """logits [1, 1, 32, 32] and the image to mask uint8 [H, W] and coverage float32 [1]."""
    nodes = [
        helper.make_node("Shape", ["image"], ["size"], start=0, end=2),
        helper.make_node("Concat", ["front", "size"], ["sizes"], axis=0),
        helper.make_node("Resize", ["logits", "", "", "sizes"], ["large"], mode="linear"),
        helper.make_node("Squeeze", ["large", "axes"], ["plane"]),
        helper.make_node("Greater", ["plane", "zero"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["mask"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["positive"], ["share"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["share"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "one"], ["coverage"]),
    ]
    graph = helper.make_graph(
        nodes,
        "postprocess",
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, SIZE, SIZE]),
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", 3]),
        ],
        [
            helper.make_tensor_value_info("mask", TensorProto.UINT8, ["H", "W"]),
            helper.make_tensor_value_info("coverage", TensorProto.FLOAT, [1]),
        ],
        [
            _constant("front", np.array([1, 1], np.int64)),
            _constant("axes", np.array([0, 1], np.int64)),
            _constant("zero", np.array(0.0, np.float32)),
            _constant("one", np.array([1], np.int64)),
        ],
    )
    return _model(graph)


def graphs(*, threshold: float = 0.5, flipped: bool = False) -> Mapping[str, bytes]:
    """The three graphs by step."""
    return {"preprocess": preprocess(flipped=flipped), "network": network(threshold), "postprocess": postprocess()}


_PREPROCESS = """
backend: "onnxruntime"
max_batch_size: 0
input { name: "image" data_type: TYPE_UINT8 dims: [-1, -1, 3] }
output { name: "input" data_type: TYPE_FP32 dims: [1, 3, 32, 32] }
"""
_NETWORK = """
backend: "onnxruntime"
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 500 }
input { name: "input" data_type: TYPE_FP32 dims: [3, 32, 32] }
output { name: "logits" data_type: TYPE_FP32 dims: [1, 32, 32] }
"""
_POSTPROCESS = """
backend: "onnxruntime"
max_batch_size: 0
input { name: "logits" data_type: TYPE_FP32 dims: [1, 1, 32, 32] }
input { name: "image" data_type: TYPE_UINT8 dims: [-1, -1, 3] }
output { name: "mask" data_type: TYPE_UINT8 dims: [-1, -1] }
output { name: "coverage" data_type: TYPE_FP32 dims: [1] }
"""
_ENSEMBLE = """
platform: "ensemble"
max_batch_size: 0
input { name: "image" data_type: TYPE_UINT8 dims: [-1, -1, 3] }
output { name: "mask" data_type: TYPE_UINT8 dims: [-1, -1] }
output { name: "coverage" data_type: TYPE_FP32 dims: [1] }
ensemble_scheduling {
  step { model_name: "preprocess" model_version: -1
    input_map { key: "image" value: "image" } output_map { key: "input" value: "input" } }
  step { model_name: "network" model_version: -1
    input_map { key: "input" value: "input" } output_map { key: "logits" value: "logits" } }
  step { model_name: "postprocess" model_version: -1
    input_map { key: "logits" value: "logits" } input_map { key: "image" value: "image" }
    output_map { key: "mask" value: "mask" } output_map { key: "coverage" value: "coverage" } }
}
"""


def configs(model: str) -> Mapping[str, str]:
    """Text of each ``config.pbtxt``, by folder."""
    return {model: _ENSEMBLE, "preprocess": _PREPROCESS, "network": _NETWORK, "postprocess": _POSTPROCESS}


def image(seed: int = 0, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: a red ramp from left to right, a blue one from top to bottom, a little noise in green."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
    pixels[:, :, 1] = rng.integers(0, 40, (height, width), dtype=np.uint8)
    pixels[:, :, 2] = np.linspace(0, 200, height, dtype=np.uint8)[:, None]
    return pixels


_SPEC = """
name: {model}
task: segment
owner: tests
license: Apache-2.0
classes:
  - name: background
  - name: red
    color: "#00ff00"
data: {{name: ramps}}
train:
  select: {{metric: dice}}
gate: {{metric: dice, minimum: 0.5}}
"""


def release_files(model: str, *, threshold: float = 0.5, flipped: bool = False) -> dict[str, bytes]:
    """Every file of a release but its manifest. The golden outputs are those of graphs that are not flipped."""
    files = {f"{step}/model.onnx": data for step, data in graphs(threshold=threshold, flipped=flipped).items()}
    files |= {f"triton/{name}/config.pbtxt": text.encode() for name, text in configs(model).items()}
    files["model.yaml"] = _SPEC.format(model=model).encode()
    pixels = image()
    files["golden/ramp.png"] = encode_png(pixels)
    stream = io.BytesIO()
    np.savez(stream, **answer(pixels, threshold))
    files["golden/ramp.npz"] = stream.getvalue()
    return files


def answer(pixels: NDArray[np.uint8], threshold: float) -> dict[str, NDArray]:
    """What a release of this threshold must say of an image, from the graphs in this process."""
    tensors: dict[str, NDArray] = {"image": pixels}
    for graph in graphs(threshold=threshold).values():
        tensors |= Graph(graph).run(tensors)
    return {name: tensors[name] for name in ("mask", "coverage", "logits")}


def manifest(model: str, files: Mapping[str, bytes]) -> ReleaseManifest:
    """A manifest that tells the truth about these files' digests."""
    some = sha256(b"tests")
    return ReleaseManifest(
        model=model,
        task=Task.SEGMENT,
        code_digest=some,
        data_digest=some,
        heldout_digest=some,
        run_key="tests",
        mlflow_run_id=None,
        parameters={},
        classes=(ClassSpec(name="background"), ClassSpec(name="red", color="#00ff00")),
        thresholds={"mask": 0.5},
        license="Apache-2.0",
        metrics={"dice": 1.0},
        files={path: FileEntry(sha256=sha256(data), size=len(data)) for path, data in files.items()},
        golden=(GoldenEntry(file="golden/ramp.png", outputs="golden/ramp.npz"),),
        tolerances={
            FP32: {
                "mask": Tolerance(differing=0.001),
                "coverage": Tolerance(absolute=0.001),
                "logits": Tolerance(absolute=0.001, internal=True),
            }
        },
        versions={"opset": "18"},
    )
