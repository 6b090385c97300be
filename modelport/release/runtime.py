"""A release's three graphs in ONNX Runtime, in this process: how the gate, parity and benchmarks ask it."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelport.contract import IMAGE, Tensor, step_names
from modelport.release.manifest import FP32
from modelport.release.store import Release

_TYPES: dict[str, str] = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(bool)": "TYPE_BOOL",
    "tensor(string)": "TYPE_STRING",
}
"""Triton's names of ONNX Runtime's types."""


class Network(Protocol):
    """A graph in whatever engine."""

    def run(self, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; of `tensors` those that the graph names are its inputs."""
        ...


class Graph:
    """One ONNX graph on the CPU."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(_tensor(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor(value) for value in self._session.get_outputs())

    def run(self, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; of `tensors` those that the graph names are its inputs."""
        names = [tensor.name for tensor in self.outputs]
        feed = {tensor.name: tensors[tensor.name] for tensor in self.inputs}
        return dict(zip(names, self._session.run(names, feed), strict=True))


class Runtime:
    """A whole release."""

    def __init__(self, release: Release, threads: int = 1, precision: str = FP32) -> None:
        """`precision` is that of the network step; raises `BadInput` when the release does not carry it."""
        self.graphs = {
            step: Graph(release.graph(step, precision), threads) for step in step_names(release.manifest.task)
        }
        """By step, in order."""

    def predict(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Outputs for an image uint8 [H, W, 3]: what clients see, and what flows between the steps (``logits``)."""
        return run_steps(self.graphs.values(), image)


def run_steps(graphs: Iterable[Network], image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Outputs of all steps for an image uint8 [H, W, 3], by name."""
    tensors: dict[str, NDArray[Any]] = {IMAGE: image}
    for graph in graphs:
        tensors |= graph.run(tensors)
    del tensors[IMAGE]
    return tensors


def _tensor(value: Any) -> Tensor:
    # A dynamic size has a name or nothing instead of a number.
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    kind: str = value.type
    return Tensor(value.name, _TYPES.get(kind, kind), dims)
