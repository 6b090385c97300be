"""A network's graph in 8 bits: ONNX Runtime's static quantization, with ranges that were seen on given inputs.

What is chosen here, and why:

- Only products with learned weights (Conv, Gemm, MatMul) become 8-bit, with ``QuantizeLinear`` and ``DequantizeLinear``
  around them: engines fuse these pairs, and everything between stays what it is.
- The last weighted layers stay float: what they give is the answer itself, and they are a small part of the work. So
  do products of what a softmax gives (attention, the expected distances of a detector's boxes): weights of a sum to
  one that are rounded to 1/128 shift every box.
- Weights have a scale for each output channel: after batch normalisation is folded in, channels differ by orders.
- Weights use 7 of the 8 bits, activations are unsigned: processors without VNNI add two products in 16 bits, which
  would overflow, silently, on the servers and not where the release was evaluated.
- Ranges are the least and greatest values seen (MinMax): the same inputs give the same graph, and nothing that was seen
  is cut off. Entropy and percentiles keep every activation in memory and cut the rare large ones, which are objects.
"""

import tempfile
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.errors import BadInput

METHOD = "MinMax, per channel, QUInt8 activations, QInt8 weights of 7 bits"
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_SHAPING = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Split", "Slice", "Flatten", "Identity"})
_INPUT = "input"


def quantize(network: bytes, inputs: Sequence[NDArray[np.float32]], *, symmetric: bool = False) -> bytes:
    """A graph of 8-bit products that has the network's signature; the same arguments give the same bytes.

    Args:
        network: ONNX of a network step.
        inputs: what preprocessing gave for each calibration image, float32 [1, 3, S, S].
        symmetric: signed activations without zero points, and float biases: what TensorRT takes.

    Raises:
        BadInput: nothing of it can be quantized, or an input is not finite.
    """
    if not inputs:
        raise BadInput("no image to calibrate with", key="calibration", remedy="give --data with a training split")
    if not all(np.isfinite(each).all() for each in inputs):
        raise BadInput("a calibration image becomes infinite or no number", key="calibration", remedy="see preprocess")
    import onnx
    import onnxruntime
    from onnxruntime import quantization

    onnxruntime.disable_telemetry_events()
    with tempfile.TemporaryDirectory(prefix="modelport-int8-") as folder:
        source, prepared, made = (Path(folder, name) for name in ("source.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(network)
        # Folds batch normalisation into convolutions and infers shapes. The exporter wrote symbolic ones itself.
        quantization.shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        names = _quantizable(onnx.load(prepared).graph)
        if not names:
            raise BadInput("has no layer that 8 bits would make faster", file="network/model.onnx", remedy="keep fp32")
        # The library asks for a class of its own only in a type annotation.
        reader: Any = _Reader(inputs)
        quantization.quantize_static(
            prepared,
            made,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=not symmetric,
            activation_type=quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
        )
        return _plain(onnx.load(made))


def _plain(model: Any) -> bytes:
    """Bytes of a graph that imports only what it uses: an older engine refuses newer operator sets, used or not."""
    used = {node.domain for node in model.graph.node}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    return model.SerializeToString(deterministic=True)


class _Reader:
    """Gives the inputs one by one, as the calibrator asks for them."""

    def __init__(self, inputs: Sequence[NDArray[np.float32]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next feed, None after the last."""
        value = next(self._inputs, None)
        return None if value is None else {_INPUT: value}


def _quantizable(graph: Any) -> list[str]:
    """Names of the nodes to quantize: products with learned weights, but for the last ones and those of a softmax."""
    constants = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    weighted = [
        node
        for node in graph.node
        if node.op_type in _WEIGHTED and node.input[1] in constants and not _of_softmax(node.input[0], makers)
    ]
    outputs = {node.output[0] for node in weighted}
    return [node.name for node in weighted if node.name and _leads_to(node.output[0], outputs, readers)]


def _of_softmax(name: str, makers: Mapping[str, Any]) -> bool:
    """Whether a tensor is a softmax's result, but for its shape."""
    node = makers.get(name)
    while node is not None and node.op_type in _SHAPING:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def _leads_to(name: str, targets: AbstractSet[str], readers: Mapping[str, Sequence[Any]]) -> bool:
    """Whether any of the targets is computed from the tensor."""
    pending, seen = [name], {name}
    while pending:
        for node in readers.get(pending.pop(), ()):
            if targets & set(node.output):
                return True
            fresh = set(node.output) - seen
            seen |= fresh
            pending += fresh
    return False
