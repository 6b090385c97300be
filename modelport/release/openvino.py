"""A network's graph in OpenVINO's format, and OpenVINO as an engine that runs it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class OpenVinoGraph:
    """One graph on the CPU; the counterpart of `Graph`."""

    def __init__(self, model: bytes | Path, threads: int = 1) -> None:
        """`model` is ONNX, or the path of an ``.xml`` with its ``.bin`` beside it."""
        core = _package().Core()
        compiled = core.compile_model(
            core.read_model(model),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                # Some processors have bfloat16, and would use it: nobody has asked for that, or evaluated it.
                "INFERENCE_PRECISION_HINT": "f32",
            },
        )
        self._request: Any = compiled.create_infer_request()
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._outputs = [port.get_any_name() for port in compiled.outputs]

    def run(self, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; of `tensors` those that the graph names are its inputs."""
        given = self._request.infer({name: tensors[name] for name in self._inputs})
        return {name: np.array(given[name]) for name in self._outputs}


def write_openvino(model: bytes, target: Path, *, half: bool) -> tuple[Path, Path]:
    """Write ONNX as ``<target>.xml`` and ``<target>.bin``; `half` stores weights in 16 bits."""
    openvino = _package()
    graph = openvino.Core().read_model(model)
    openvino.save_model(graph, target.with_suffix(".xml"), compress_to_fp16=half)
    return target.with_suffix(".xml"), target.with_suffix(".bin")


def _package() -> Any:
    """OpenVINO, which would report over the network that it was imported, unless its reporter is missing."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # an import of it fails, and OpenVINO takes a stub of its own
    import openvino

    return openvino
