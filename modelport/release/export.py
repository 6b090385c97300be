"""torch modules to ONNX graphs, and the proof that the graphs do what torch does.

This is the only module of the room that needs torch.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract import (
    CANDIDATES,
    IMAGE,
    Problem,
    StepNames,
    Task,
    TritonPipeline,
    check_graph,
    step_names,
)
from modelport.errors import BadInput
from modelport.release.manifest import Tolerance
from modelport.release.pipeline import Pipeline
from modelport.release.replay import compare
from modelport.release.runtime import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18
_BATCH = 2
"""Sample batch of the network: the exporter takes a size of one for a constant."""
_BOXES = 48
"""Made-up boxes that a detector's last step is asked about; more where there are many classes."""


@dataclass(frozen=True)
class Exported:
    """Graphs of a pipeline, and torch's own outputs that they are held against."""

    graphs: Mapping[str, bytes]
    """ONNX by step."""
    expected: Sequence[dict[str, NDArray[Any]]]
    """torch's outputs for each golden image."""


def export(
    pipeline: Pipeline, task: Task, images: Sequence[NDArray[np.uint8]], tolerances: Mapping[str, Tolerance]
) -> Exported:
    """Export the three steps and check their parity with torch.

    Args:
        pipeline: modules of the folder's ``pipeline.py``.
        images: decoded golden images, uint8 [H, W, 3].
        tolerances: of fp32.

    Raises:
        BadInput: a step cannot be exported, or its graph answers otherwise than torch.
    """
    import torch

    names = step_names(task)
    modules: dict[str, nn.Module] = {
        "preprocess": pipeline.preprocess,
        "network": pipeline.network,
        "postprocess": pipeline.postprocess,
    }
    for module in modules.values():
        module.eval().cpu()
    # Sizes that are equal by accident would be taken for equal by design: a square image is made oblong to trace with.
    example = torch.from_numpy(images[0].copy()) if pipeline.example is None else pipeline.example
    if example.shape[0] == example.shape[1]:
        example = example[:-1]
    graphs: dict[str, bytes] = {}
    tensors: dict[str, Tensor] = {IMAGE: example.contiguous()}
    with torch.inference_mode():
        for step, module in modules.items():
            inputs = tuple(tensors[name] for name in names[step].inputs)
            tensors |= _run(step, module, names[step], inputs)
    for step, module in modules.items():
        inputs = tuple(tensors[name].clone() for name in names[step].inputs)
        graphs[step] = _to_onnx(step, module, names[step], inputs)
    expected = [_torch_outputs(modules, names, image) for image in images]
    _check_parity(graphs, modules, names, images, expected, tolerances)
    if task is Task.DETECT:
        _check_boxes(graphs, modules, names, images[0], pipeline.thresholds.get("score", 0.0), tolerances)
    wanted = {name for step in ("network", "postprocess") for name in names[step].outputs}
    return Exported(graphs, [{name: out[name] for name in sorted(wanted)} for out in expected])


def check_graphs(graphs: Mapping[str, bytes], configs: TritonPipeline, folder: Path) -> list[Problem]:
    """Problems between exported graphs and the ``config.pbtxt`` files under `folder`."""
    problems: list[Problem] = []
    for step, data in graphs.items():
        graph = Graph(data)
        file = folder / step / "config.pbtxt"
        problems += check_graph(configs.steps[step], graph.inputs, graph.outputs, file)
    return problems


def library_versions() -> dict[str, str]:
    """Versions of what makes the graphs."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")} | {"opset": str(OPSET)}


def _run(step: str, module: "nn.Module", names: StepNames, inputs: "tuple[Tensor, ...]") -> "dict[str, Tensor]":
    import torch

    try:
        given: object = module(*inputs)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in zip(names.inputs, inputs, strict=True))
        raise BadInput(
            f"the {step} step fails: {error}", key="pipeline.py", remedy=f"it is called with {shapes}"
        ) from error
    values: tuple[object, ...] = tuple(given) if isinstance(given, tuple | list) else (given,)
    outputs = [value for value in values if isinstance(value, torch.Tensor)]
    if len(outputs) != len(names.outputs):
        raise BadInput(
            f"the {step} step returns {len(outputs)} tensors, not {len(names.outputs)}",
            key="pipeline.py",
            remedy=f"return {', '.join(names.outputs)}, in this order",
        )
    return dict(zip(names.outputs, outputs, strict=True))


def _to_onnx(step: str, module: "nn.Module", names: StepNames, inputs: "tuple[Tensor, ...]") -> bytes:
    import torch
    from torch.export import Dim

    if step == "network":
        inputs = tuple(value.repeat(_BATCH, *[1] * (value.ndim - 1)) for value in inputs)
    shapes = tuple(
        {0: Dim("height"), 1: Dim("width")} if name == IMAGE else ({0: Dim("batch")} if step == "network" else None)
        for name in names.inputs
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Of torch and torchvision about each other, once for every operation: nothing that a reader could change.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.onnx.export(
                module,
                inputs,
                input_names=list(names.inputs),
                output_names=list(names.outputs),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:
        raise BadInput(
            f"torch cannot export the {step} step: {error}",
            key="pipeline.py",
            remedy="keep to operations that torch.export traces with dynamic sizes of image and batch",
        ) from error
    if program is None:
        raise BadInput(f"torch exported nothing for the {step} step", key="pipeline.py")
    return _serialized(program.model_proto)


def _serialized(model: Any) -> bytes:
    """Bytes of a graph without the stack traces that the exporter leaves in it.

    They name files of the machine that exported, and would give equal graphs unequal digests.
    """
    # Nested graphs (of If, Loop) sit in attributes, functions beside the main graph.
    pending: list[Any] = [model.graph, *model.functions]
    for holder in (model, *pending):
        del holder.metadata_props[:]
    model.doc_string = ""
    while pending:
        graph = pending.pop()
        graph.doc_string = ""
        del graph.metadata_props[:]
        for value in (*getattr(graph, "input", ()), *getattr(graph, "output", ()), *graph.value_info):
            if hasattr(value, "metadata_props"):
                del value.metadata_props[:]
        for tensor in getattr(graph, "initializer", ()):
            del tensor.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)
    return model.SerializeToString(deterministic=True)


def _torch_outputs(
    modules: "Mapping[str, nn.Module]", names: Mapping[str, StepNames], image: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    import torch

    tensors: dict[str, Tensor] = {IMAGE: torch.from_numpy(image.copy())}
    with torch.inference_mode():
        for step, module in modules.items():
            tensors |= _run(step, module, names[step], tuple(tensors[name] for name in names[step].inputs))
    return {name: value.numpy() for name, value in tensors.items()}


def _check_parity(
    graphs: Mapping[str, bytes],
    modules: "Mapping[str, nn.Module]",
    names: Mapping[str, StepNames],
    images: Sequence[NDArray[np.uint8]],
    expected: Sequence[dict[str, NDArray[Any]]],
    tolerances: Mapping[str, Tolerance],
) -> None:
    """Hold the graphs against torch: on the golden images, on another size, and with a batch."""
    sessions = {step: Graph(data) for step, data in graphs.items()}
    visible = {name for step in ("network", "postprocess") for name in names[step].outputs}
    first = images[0]
    # A size of its own kind: neither the traced one nor even, so that a size frozen in the graph shows.
    odd = np.ascontiguousarray(first[: first.shape[0] * 2 // 3 | 1, : first.shape[1] // 2 | 1])
    cases: Iterable[tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]] = [
        *zip(images, expected, strict=True),
        (odd, _torch_outputs(modules, names, odd)),
    ]
    inputs: list[NDArray[Any]] = []
    logits: list[NDArray[Any]] = []
    for image, wanted in cases:
        tensors: dict[str, NDArray[Any]] = {IMAGE: image}
        size = f"{image.shape[1]}x{image.shape[0]}"
        for step, session in sessions.items():
            try:
                tensors |= session.run(tensors)
            except Exception as error:
                raise _differs(f"the exported {step} step fails on an image of {size}: {error}") from error
        problems = compare(tensors, {name: wanted[name] for name in visible}, tolerances)
        if problems:
            raise _differs(f"the exported graphs do not answer as torch on an image of {size}: {'; '.join(problems)}")
        inputs.append(tensors["input"])
        logits.append(tensors[names["network"].outputs[0]])
    try:
        together = sessions["network"].run({"input": np.concatenate(inputs)})
    except Exception as error:
        raise _differs(f"the exported network fails on a batch of {len(inputs)}: {error}") from error
    name = names["network"].outputs[0]
    problems = compare(together, {name: np.concatenate(logits)}, tolerances)
    if problems:
        raise _differs(f"the network answers otherwise in a batch than alone: {'; '.join(problems)}")


def _check_boxes(
    graphs: Mapping[str, bytes],
    modules: "Mapping[str, nn.Module]",
    names: Mapping[str, StepNames],
    image: NDArray[np.uint8],
    threshold: float,
    tolerances: Mapping[str, Tolerance],
) -> None:
    """Hold a detector's last step against torch with boxes that are clear, which golden images need not show."""
    import torch

    sessions = {step: Graph(data) for step, data in graphs.items()}
    pixels = sessions["preprocess"].run({IMAGE: image})
    like = sessions["network"].run(pixels)[CANDIDATES]
    height, width = pixels["input"].shape[2:]
    candidates = _synthetic(like.shape, height, width, threshold)
    tall, wide = (2 * height + 1, width // 2 + 3), (height // 2 + 3, 2 * width + 1)
    for picture in (image, np.zeros((*tall, 3), np.uint8), np.zeros((*wide, 3), np.uint8)):
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        given = (torch.from_numpy(candidates.copy()), torch.from_numpy(picture.copy()))
        with torch.inference_mode():
            wanted = _run("postprocess", modules["postprocess"], names["postprocess"], given)
        try:
            found = sessions["postprocess"].run({CANDIDATES: candidates, IMAGE: picture})
        except Exception as error:
            raise _differs(f"the exported postprocess step fails on boxes in an image of {size}: {error}") from error
        problems = compare(found, {name: value.numpy() for name, value in wanted.items()}, tolerances)
        if problems:
            raise _differs(
                f"the exported postprocess step does not answer as torch on made-up candidates and an image of {size}: "
                + "; ".join(problems)
            )


def _synthetic(shape: Sequence[int], height: int, width: int, threshold: float) -> NDArray[np.float32]:
    """Candidates float32 [1, A, 4 + C] with boxes of every class all over the network's input; all else scores 0.

    Scores are distinct and apart from the threshold; some boxes overlap one of the same class by much or by little, so
    that no decision hangs on the last digit.
    """
    _, places, columns = shape
    classes = columns - 4
    random = np.random.default_rng(0)
    highest = max(0.95, (1 + threshold) / 2)
    scores = np.linspace(min(0.3, threshold / 2), highest, max(_BOXES, 3 * classes))
    scores = random.permutation(scores[np.abs(scores - threshold) >= min(0.02, (highest - threshold) / 4)])[:places]
    count = len(scores)
    boxes = np.concatenate([random.uniform(0.1, 0.9, (count, 2)), random.uniform(0.05, 0.3, (count, 2))], axis=1)
    for index in range(classes, count):
        # Moved by this share of the width: the two overlap by 0.9, or by 0.18.
        moved = {2: 0.05, 3: 0.7}.get(index // classes % 4)
        if moved is not None:
            boxes[index] = boxes[index - classes]
            boxes[index, 0] += moved * boxes[index, 2]
    candidates = np.zeros((1, places, columns), np.float32)
    rows = random.choice(places, count, replace=False)
    candidates[0, rows, :4] = boxes * [width, height, width, height]
    candidates[0, rows, 4 + np.arange(count) % classes] = scores
    return candidates


def _differs(message: str) -> BadInput:
    return BadInput(
        message, key="pipeline.py", remedy="make the modules independent of traced sizes, of the batch, and of chance"
    )
