"""Triton model configurations: read by their real protobuf schema, and rendered for a release.

A folder's ``config.pbtxt`` files own inputs, outputs and batching. Instance groups, threads and accelerators are the
platform's to render, from ``serve`` and the stack: the same release runs on a laptop's processor and on a GPU.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from modelport.contract.spec import Precision
from modelport.errors import BadInput

ModelConfig: TypeAlias = Any
"""``inference.ModelConfig`` of Triton's ``model_config.proto`` (generated code carries no types)."""

CONFIG_FILE = "config.pbtxt"
NETWORK = "network"
"""The step that learned, and that exists in more than one precision."""
ENGINE_CACHE = "/tmp/modelport-engines"  # noqa: S108  Triton's own container, which nobody else writes to
"""How the folders of TensorRT's plans begin, one for each graph, in Triton's container."""
_TIMING_CACHE = "/tmp"  # noqa: S108  the same
_WORKSPACE_BYTES = 1 << 30


@dataclass(frozen=True)
class TritonPipeline:
    """The ensemble that clients call, and the steps that it runs, by their names in the folder."""

    ensemble: ModelConfig
    steps: Mapping[str, ModelConfig]


@dataclass(frozen=True)
class InstanceSettings:
    """What a stack decides about a release's steps."""

    instances: Mapping[str, int] = field(default_factory=dict[str, int])
    """Parallel instances by step; 1 by default. Triton's own default would be two, each using every core."""
    threads: int = 1
    """Threads inside one instance."""
    gpu: bool = False
    """Whether steps run on the replica's GPU."""
    precision: Precision = Precision.FP32
    """Arithmetic of the network step."""


@dataclass(frozen=True)
class RenderedRelease:
    """Everything that Triton is told of one release. Names are immutable: other content gets other names."""

    name: str
    """The release's ensemble, ``<model>.<first 12 digits of the digest>``, with ``-<precision>`` unless it is fp32."""
    alias: str
    """The model's own name, for clients that speak to Triton directly."""
    steps: Mapping[str, str]
    """Triton's name of each step."""
    configs: Mapping[str, str]
    """Text of ``config.pbtxt`` by Triton's name: the steps and the release."""
    alias_config: str
    """Text of the alias: an ensemble of one step, the release."""


def parse_config(text: str, file: Path | str) -> ModelConfig:
    """Parse a ``config.pbtxt`` by Triton's protobuf schema.

    Raises:
        BadInput: with file and line.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2  # pyright: ignore[reportMissingTypeStubs]

    schema: Any = model_config_pb2
    try:
        return text_format.Parse(text, schema.ModelConfig())
    except text_format.ParseError as error:
        line: int | None = error.GetLine()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        raise BadInput(
            f"is not a Triton model configuration: {error}",
            file=file,
            line=line,
            remedy="see Triton's model configuration documentation for its fields",
        ) from None


def read_config(file: Path) -> ModelConfig:
    """Read a ``config.pbtxt``."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput("there is no such file", file=file, remedy="every step and the ensemble have one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read: {error}", file=file) from None
    return parse_config(text, file)


def read_pipeline(folder: Path, model: str) -> TritonPipeline:
    """Read the configurations under a ``triton/`` folder: the ensemble called like the model, and every step.

    Raises:
        BadInput: a file is missing or unreadable.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if model not in names:
        raise BadInput(
            "there is no such file",
            file=folder / model / CONFIG_FILE,
            remedy=f"the ensemble that clients call is {folder.name}/{model}/{CONFIG_FILE}",
        )
    steps = {name: read_config(folder / name / CONFIG_FILE) for name in names if name != model}
    return TritonPipeline(read_config(folder / model / CONFIG_FILE), steps)


def render(
    pipeline: TritonPipeline, settings: InstanceSettings, graph_hashes: Mapping[str, str], model: str, release: str
) -> RenderedRelease:
    """Render a release's configurations.

    Args:
        pipeline: configurations that the release carries.
        settings: what the stack decides.
        graph_hashes: sha256 of each step's ``model.onnx`` in the precision of the settings, by step.
        model: name of the model.
        release: digest of the release.

    A step's name carries a hash of its graph and its configuration, so that releases share what did not change and
    never what did.

    fp16 on a GPU is the one arithmetic that is served without having been gated: it exists only where it runs. The gate
    measured the fp32 graph that TensorRT makes it of; before a replica is ready its answers to the golden images are
    held against torch's, within the tolerances of fp16.
    """
    steps: dict[str, str] = {}
    configs: dict[str, str] = {}
    for step in sorted(pipeline.steps):
        config = _copy(pipeline.steps[step])
        config.name = ""
        group = config.instance_group.add()
        group.count = settings.instances.get(step, 1)
        group.kind = group.KIND_GPU if settings.gpu else group.KIND_CPU
        # The C++ backend and the laptop's read the same parameters.
        config.parameters["intra_op_thread_count"].string_value = str(settings.threads)
        config.parameters["inter_op_thread_count"].string_value = "1"
        if step == NETWORK and settings.precision is Precision.FP16 and settings.gpu:
            _accelerate_fp16(config, graph_hashes[step])
        content = hashlib.sha256(f"{graph_hashes[step]}\n{_to_text(config)}".encode()).hexdigest()
        config.name = steps[step] = f"{model}.{step}.{content[:12]}"
        configs[config.name] = _to_text(config)
    ensemble = _copy(pipeline.ensemble)
    # No dot: the number of dots tells releases from steps.
    suffix = "" if settings.precision is Precision.FP32 else f"-{settings.precision}"
    ensemble.name = f"{model}.{release[:12]}{suffix}"
    ensemble.parameters["release"].string_value = release
    for step in ensemble.ensemble_scheduling.step:
        step.model_name = steps[step.model_name]
        step.model_version = -1
    configs[ensemble.name] = _to_text(ensemble)
    return RenderedRelease(ensemble.name, model, steps, configs, _to_text(_alias(ensemble, model)))


def _accelerate_fp16(config: ModelConfig, graph_hash: str) -> None:
    """Let ONNX Runtime compute what it can with TensorRT in 16 bits.

    The plan is built where it runs, at the first load, and lives as long as the container: TensorRT names its files by
    its version and the GPU's compute capability, and here each graph has a folder of its own.
    """
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add()
    accelerator.name = "tensorrt"
    accelerator.parameters["precision_mode"] = "FP16"
    accelerator.parameters["max_workspace_size_bytes"] = str(_WORKSPACE_BYTES)
    accelerator.parameters["trt_engine_cache_enable"] = "true"
    # ONNX Runtime makes the last level of this path, and none above it.
    accelerator.parameters["trt_engine_cache_path"] = f"{ENGINE_CACHE}-{graph_hash[:12]}"
    accelerator.parameters["trt_timing_cache_enable"] = "true"
    accelerator.parameters["trt_timing_cache_path"] = _TIMING_CACHE
    # Without a profile every new size of batch would build anew, in the middle of traffic.
    for bound, shapes in profile_shapes(config).items():
        accelerator.parameters[f"trt_profile_{bound}_shapes"] = shapes


def profile_shapes(config: ModelConfig) -> dict[str, str]:
    """``min``, ``opt`` and ``max`` shapes of a step's inputs, as TensorRT's tools write them: ``input:8x3x32x32``.

    From a batch of one to ``max_batch_size``; where that is 0, the dimensions say it all.
    """
    largest = config.max_batch_size
    return {
        bound: ",".join(
            f"{tensor.name}:{'x'.join(map(str, ([batch] if largest > 0 else []) + list(tensor.dims)))}"
            for tensor in config.input
        )
        for bound, batch in (("min", 1), ("opt", largest), ("max", largest))
    }


def _alias(release: ModelConfig, model: str) -> ModelConfig:
    alias = type(release)()
    alias.name = model
    alias.platform = "ensemble"
    alias.max_batch_size = release.max_batch_size
    for tensor in release.input:
        alias.input.add().CopyFrom(tensor)
    for tensor in release.output:
        alias.output.add().CopyFrom(tensor)
    step = alias.ensemble_scheduling.step.add()
    step.model_name = release.name
    step.model_version = -1
    for tensor in alias.input:
        step.input_map[tensor.name] = tensor.name
    for tensor in alias.output:
        step.output_map[tensor.name] = tensor.name
    return alias


def _copy(config: ModelConfig) -> ModelConfig:
    duplicate = type(config)()
    duplicate.CopyFrom(config)
    return duplicate


def _to_text(config: ModelConfig) -> str:
    from google.protobuf import text_format

    return text_format.MessageToString(config)
