"""The tiny segmentation with a network of two layers, and its INT8 beside it: the last layer always stays float."""

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from modelport.contract import Task
from modelport.imaging import decode
from modelport.release import INT8, Graph, ReleaseManifest, tolerances_for
from modelport.release.quantize import quantize
from tests.serving import tiny_release as tiny

INT8_FILE = "network/int8.onnx"


def network(threshold: float = 0.5) -> bytes:
    """What `tiny_release.network` computes, in two convolutions."""
    first = np.zeros((8, 3, 3, 3), np.float32)
    first[:, 0, 1, 1] = 1.0
    last = np.full((1, 8, 1, 1), 1.0, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "first", "zeros"], ["features"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["features"], ["positive"], name="relu"),
            helper.make_node("Conv", ["positive", "last", "bias"], ["logits"], name="last"),
        ],
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", 3, tiny.SIZE, tiny.SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 1, tiny.SIZE, tiny.SIZE])],
        [
            numpy_helper.from_array(first, "first"),
            numpy_helper.from_array(np.zeros(8, np.float32), "zeros"),
            numpy_helper.from_array(last, "last"),
            numpy_helper.from_array(np.array([-8.0 * threshold], np.float32), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def release(
    model: str, *, threshold: float = 0.5, int8_threshold: float | None = None
) -> tuple[ReleaseManifest, dict[str, bytes]]:
    """A release that carries INT8; with `int8_threshold` that one answers otherwise than fp32."""
    files = tiny.release_files(model, threshold=threshold)
    files["network/model.onnx"] = network(threshold)
    preprocess = Graph(files["preprocess/model.onnx"])
    inputs = [preprocess.run({"image": tiny.image(seed)})["input"] for seed in range(4)]
    files[INT8_FILE] = quantize(network(threshold if int8_threshold is None else int8_threshold), inputs)
    return _manifest(model, files), files


def _manifest(model: str, files: Mapping[str, bytes]) -> ReleaseManifest:
    plain = tiny.manifest(model, files)
    tolerances = plain.tolerances | tolerances_for(Task.SEGMENT, plain.thresholds, [INT8])
    return plain.model_copy(update={"variants": {INT8: INT8_FILE}, "tolerances": tolerances})


def golden_image(files: Mapping[str, bytes]) -> np.ndarray:
    """The golden sample's pixels."""
    return decode(files["golden/ramp.png"])
