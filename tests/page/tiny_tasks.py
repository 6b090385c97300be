"""Releases of the two tasks that `tiny_release` has not, as small: boxes around halves, and red against blue.

Everything is a few nodes in ONNX's own notation; what they answer can be told from looking at an image.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx.parser
from numpy.typing import NDArray

from modelport.contract import ClassSpec, Task
from modelport.imaging import encode_png
from modelport.release import FP32, Graph, ReleaseManifest
from modelport.release.replay import tolerances_for
from tests.serving import tiny_release as tiny

_HEAD = '<ir_version: 10, opset_import: ["" : 18]>\n'
SURE = 0.8
"""Probability below which the classification is unsure."""


def _graph(text: str) -> bytes:
    return onnx.parser.parse_model(_HEAD + text).SerializeToString()


def _numbers(values: NDArray[Any]) -> str:
    return "{" + ", ".join(f"{value:g}" for value in np.ravel(values)) + "}"


def _detect_network() -> bytes:
    """Two candidates, the left and the right half of the image; red and blue are their classes' scores."""
    weight = np.zeros((6, 3, 32, 16), np.float32)
    weight[4, 0] = weight[5, 2] = 1 / (32 * 16)
    places = np.zeros((6, 2), np.float32)
    places[:4] = np.array([(8, 16, 12, 24), (24, 16, 12, 24)]).T
    return _graph(
        f"""network (float[B,3,32,32] input) => (float[B,2,6] candidates)
        <float[6,3,32,16] weight = {_numbers(weight)}, float[1,6,1,2] places = {_numbers(places)},
         int64[3] shape = {{0, 6, 2}}> {{
          means = Conv<strides = [16, 16]>(input, weight)
          placed = Add(means, places)
          flat = Reshape(placed, shape)
          candidates = Transpose<perm = [0, 2, 1]>(flat)
        }}"""
    )


def _detect_postprocess(threshold: float) -> bytes:
    """Corners in pixels of the image, of the candidates above the threshold."""
    return _graph(
        f"""postprocess (float[1,2,6] candidates, uint8[H,W,3] image)
          => (float[K,4] boxes, float[K] scores, int64[K] labels)
        <int64[1] axis = {{1}}, int64[1] n0 = {{0}}, int64[1] n2 = {{2}}, int64[1] n4 = {{4}}, int64[1] n6 = {{6}},
         int64[4] order = {{1, 0, 1, 0}},
         float[1] half = {{0.5}}, float[1] size = {{32}}, float[1] least = {{{threshold:g}}}> {{
          rows = Squeeze(candidates, n0)
          centres = Slice(rows, n0, n2, axis)
          sides = Slice(rows, n2, n4, axis)
          each = Slice(rows, n4, n6, axis)
          halves = Mul(sides, half)
          low = Sub(centres, halves)
          high = Add(centres, halves)
          corners = Concat<axis = 1>(low, high)
          shape = Shape(image)
          edges = Gather(shape, order)
          pixels = Cast<to = 1>(edges)
          scale = Div(pixels, size)
          placed = Mul(corners, scale)
          best = ReduceMax<keepdims = 0>(each, axis)
          named = ArgMax<axis = 1, keepdims = 0>(each)
          kept = Greater(best, least)
          boxes = Compress<axis = 0>(placed, kept)
          scores = Compress<axis = 0>(best, kept)
          labels = Compress<axis = 0>(named, kept)
        }}"""
    )


def _classify_network(slope: float) -> bytes:
    """How red and how blue the image is on the whole."""
    return _graph(
        f"""network (float[B,3,32,32] input) => (float[B,2] logits)
        <int64[2] shape = {{0, 3}}, float[3,2] weight = {_numbers(np.array([[slope, 0], [0, 0], [0, slope]]))}> {{
          means = GlobalAveragePool(input)
          flat = Reshape(means, shape)
          logits = MatMul(flat, weight)
        }}"""
    )


def _classify_postprocess() -> bytes:
    return _graph(
        """postprocess (float[1,2] logits, uint8[H,W,3] image) => (float[2] probabilities)
        <int64[1] first = {0}> {
          row = Squeeze(logits, first)
          probabilities = Softmax(row)
        }"""
    )


_TENSORS = {
    Task.DETECT: ("candidates", "[2, 6]", {"boxes": "[-1, 4]", "scores": "[-1]", "labels": "[-1]"}),
    Task.CLASSIFY: ("logits", "[2]", {"probabilities": "[2]"}),
}


def _configs(model: str, task: Task) -> dict[str, str]:
    between, dims, outputs = _TENSORS[task]
    single = f"[1, {dims[1:]}"
    kinds = {name: "TYPE_INT64" if name == "labels" else "TYPE_FP32" for name in outputs}
    declared = "\n".join(
        f'output {{ name: "{name}" data_type: {kinds[name]} dims: {size} }}' for name, size in outputs.items()
    )
    image = 'input { name: "image" data_type: TYPE_UINT8 dims: [-1, -1, 3] }'
    given = "\n".join(f'output_map {{ key: "{name}" value: "{name}" }}' for name in outputs)
    own = tiny.configs(model)
    return {
        "preprocess": own["preprocess"],
        "network": f"""
backend: "onnxruntime"
max_batch_size: 8
dynamic_batching {{ max_queue_delay_microseconds: 500 }}
input {{ name: "input" data_type: TYPE_FP32 dims: [3, 32, 32] }}
output {{ name: "{between}" data_type: TYPE_FP32 dims: {dims} }}
""",
        "postprocess": f"""
backend: "onnxruntime"
max_batch_size: 0
input {{ name: "{between}" data_type: TYPE_FP32 dims: {single} }}
{image}
{declared}
""",
        model: f"""
platform: "ensemble"
max_batch_size: 0
{image}
{declared}
ensemble_scheduling {{
  step {{ model_name: "preprocess" model_version: -1
    input_map {{ key: "image" value: "image" }} output_map {{ key: "input" value: "input" }} }}
  step {{ model_name: "network" model_version: -1
    input_map {{ key: "input" value: "input" }} output_map {{ key: "{between}" value: "{between}" }} }}
  step {{ model_name: "postprocess" model_version: -1
    input_map {{ key: "{between}" value: "{between}" }} input_map {{ key: "image" value: "image" }}
    {given} }}
}}
""",
    }


_SPEC = """
name: {model}
task: {task}
owner: tests
license: Apache-2.0
classes: [{{name: red, color: "#ff3b30"}}, {{name: blue, color: "#0a84ff"}}]
data: {{name: ramps}}
train:
  select: {{metric: {metric}}}
gate: {{metric: {metric}, minimum: 0.5}}
"""


def release(model: str, task: Task, *, second: bool = False) -> tuple[ReleaseManifest, dict[str, bytes]]:
    """Manifest and files of a detection or a classification; the `second` version answers a little differently."""
    graphs: Mapping[str, bytes]
    if task is Task.DETECT:
        thresholds, metric = {"score": 0.3 if second else 0.5}, "map50"
        graphs = {"network": _detect_network(), "postprocess": _detect_postprocess(thresholds["score"])}
    else:
        thresholds, metric = {"unsure": SURE}, "accuracy"
        graphs = {"network": _classify_network(9 if second else 8), "postprocess": _classify_postprocess()}
    graphs = {"preprocess": tiny.preprocess(), **graphs}
    pixels = tiny.image()
    tensors: dict[str, NDArray[Any]] = {"image": pixels}
    for graph in graphs.values():
        tensors |= Graph(graph).run(tensors)
    stream = io.BytesIO()
    np.savez(stream, **{name: tensors[name] for name in (*_TENSORS[task][2], _TENSORS[task][0])})
    files = {f"{step}/model.onnx": data for step, data in graphs.items()}
    files |= {f"triton/{name}/config.pbtxt": text.encode() for name, text in _configs(model, task).items()}
    files["model.yaml"] = _SPEC.format(model=model, task=task.value, metric=metric).encode()
    files["golden/ramp.png"], files["golden/ramp.npz"] = encode_png(pixels), stream.getvalue()
    manifest = tiny.manifest(model, files).model_copy(
        update={
            "task": task,
            "classes": (ClassSpec(name="red", color="#ff3b30"), ClassSpec(name="blue", color="#0a84ff")),
            "thresholds": thresholds,
            "tolerances": tolerances_for(task, thresholds, [FP32]),
        }
    )
    return manifest, files
