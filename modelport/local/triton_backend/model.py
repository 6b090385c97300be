"""Triton backend ``onnxruntime`` in Python: what the laptop's Triton has in place of NVIDIA's C++ backend of that name.

A model folder that says ``backend: "onnxruntime"`` loads unchanged here and in NVIDIA's container. This file is data to
`modelport`: it runs inside Triton's own environment, with numpy and onnxruntime only. Rendered parameters have the
names that the C++ backend knows: ``intra_op_thread_count``, ``inter_op_thread_count`` (1 where they are not given).

Triton checks a configuration against a Python backend's graph loosely (a missing batch dimension loads and answers), so
`initialize` compares names, types and shapes itself and refuses what disagrees.
"""
# ruff: noqa: INP001  Triton loads this file by its path; its folder is no package

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

Dims = Sequence[int | str | None]
Signature = Mapping[str, tuple[str, Dims]]
"""Type and dimensions of a graph's tensors by name; a dimension that is no number is dynamic."""

# Triton's type -> the graph's type.
TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}


def disagreements(config: Mapping[str, Any], inputs: Signature, outputs: Signature) -> list[str]:
    """What a configuration says that its graph does not: sentences, none when they agree."""
    batched = config.get("max_batch_size", 0) > 0
    found = []
    for kind, declared, actual in (("input", config["input"], inputs), ("output", config["output"], outputs)):
        names = {tensor["name"] for tensor in declared}
        if kind == "input":
            found += [f"input '{name}' of the graph is not declared" for name in actual if name not in names]
        for tensor in declared:
            place = f"{kind} '{tensor['name']}'"
            if tensor["name"] not in actual:
                found.append(f"{place} is not in the graph, which has {', '.join(actual)}")
                continue
            if tensor.get("reshape"):
                found.append(f"{place}: reshape is not supported by this backend")
            graph_type, graph_dims = actual[tensor["name"]]
            if TYPES.get(tensor["data_type"]) != graph_type:
                found.append(f"{place} is declared {tensor['data_type']}, but the graph has {graph_type}")
            found += _shape_disagreements(place, [int(dim) for dim in tensor["dims"]], graph_dims, batched)
    return found


def _shape_disagreements(place: str, dims: list[int], graph_dims: Dims, batched: bool) -> list[str]:
    actual = [dim if isinstance(dim, int) and dim >= 0 else -1 for dim in graph_dims]
    said = f"{place} is declared {dims}" + (" after the batch dimension" if batched else " without a batch dimension")
    has = f"but the graph has {['?' if dim < 0 else dim for dim in actual]}"
    expected = [-1, *dims] if batched else dims
    if len(expected) != len(actual):
        return [f"{said}, {has}: {len(expected)} dimensions against {len(actual)}"]
    if batched and actual[0] != -1:
        return [f"{said}, {has}: its first dimension must be dynamic, or max_batch_size 0"]
    # A graph that is dynamic where the configuration is fixed is fine: Triton holds callers to the configuration.
    if any(real not in (-1, wanted) for real, wanted in zip(actual, expected, strict=True)):
        return [f"{said}, {has}"]
    return []


class TritonPythonModel:
    """One instance of one model: a session over its graph."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph; raises TritonModelException, which is the answer to whoever loads the model."""
        config = json.loads(args["model_config"])
        self.batched = config.get("max_batch_size", 0) > 0
        file = config.get("default_model_filename") or "model.onnx"
        graph = os.path.join(args["model_repository"], args["model_version"], file)
        if not os.path.isfile(graph):
            raise pb_utils.TritonModelException(f"{args['model_name']}: there is no {args['model_version']}/{file}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = _count(config, "intra_op_thread_count")
        options.inter_op_num_threads = _count(config, "inter_op_thread_count")
        options.log_severity_level = 3
        # Threads that wait for work by spinning take the cores from the other steps of the pipeline.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {file} does not load: {error}") from error
        found = disagreements(
            config,
            {tensor.name: (tensor.type, tensor.shape) for tensor in self.session.get_inputs()},
            {tensor.name: (tensor.type, tensor.shape) for tensor in self.session.get_outputs()},
        )
        if found:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: config.pbtxt disagrees with {file}: " + "; ".join(found)
            )
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests; an error is the answer to its own request only."""
        if len(requests) == 1 or not self.batched:
            return [self._alone(request) for request in requests]
        return self._together(requests)

    def _alone(self, request: Any) -> Any:
        try:
            wanted = self._wanted(request)
            results = self.session.run(wanted, self._feeds(request))
            return self._respond(request, dict(zip(wanted, results, strict=True)))
        except Exception as error:  # noqa: BLE001  whatever ONNX Runtime raises is the answer
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))

    def _together(self, requests: list[Any]) -> list[Any]:
        """One run for all requests, whose shapes Triton's batcher keeps equal but for the batch dimension.

        A run that fails is repeated one by one, to blame the right request.
        """
        feeds = [self._feeds(request) for request in requests]
        try:
            joined = {name: np.concatenate([one[name] for one in feeds]) for name in self.inputs}
            results = self.session.run(self.outputs, joined)
            ends = np.cumsum([one[self.inputs[0]].shape[0] for one in feeds])
            if any(result.shape[0] != ends[-1] for result in results):
                raise ValueError("the graph's outputs do not keep the batch dimension")
        except Exception as error:  # noqa: BLE001  it is logged, and each request gets its own answer
            pb_utils.Logger.log_warn(f"a batch of {len(requests)} requests failed, running them one by one: {error}")
            return [self._alone(request) for request in requests]
        parts = zip(*(np.split(result, ends[:-1]) for result in results), strict=True)
        return [
            self._respond(request, dict(zip(self.outputs, arrays, strict=True)))
            for request, arrays in zip(requests, parts, strict=True)
        ]

    def _feeds(self, request: Any) -> dict[str, np.ndarray]:
        # as_numpy is a view of the shared memory: nothing is copied.
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}

    def _wanted(self, request: Any) -> list[str]:
        requested = set(request.requested_output_names())
        return [name for name in self.outputs if name in requested]

    def _respond(self, request: Any, arrays: Mapping[str, np.ndarray]) -> Any:
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, arrays[name]) for name in self._wanted(request)])


def _count(config: Mapping[str, Any], parameter: str) -> int:
    value = config.get("parameters", {}).get(parameter, {}).get("string_value", "1")
    if not value.isdigit() or int(value) < 1:
        raise pb_utils.TritonModelException(f"parameter {parameter} is '{value}'; it must be a count from 1")
    return int(value)
