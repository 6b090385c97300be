"""Triton model configurations: read by their real protobuf schema, checked along the ensemble, rendered for a release.

A folder's ``config.pbtxt`` files own inputs, outputs and batching. Instance groups, threads and accelerators are the
platform's to render, from ``serve`` and the stack: the same release runs on a laptop's processor and on a GPU.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from modelport.contract.tasks import TASKS, Task, Tensor
from modelport.errors import BadInput

ModelConfig: TypeAlias = Any
"""``inference.ModelConfig`` of Triton's ``model_config.proto`` (generated code carries no types)."""

CONFIG_FILE = "config.pbtxt"
BACKEND = "onnxruntime"
PIPELINE_STEPS = ("preprocess", "network", "postprocess")

_PLATFORM_FIELDS = {
    "instance_group": "write serve.instances in model.yaml",
    "optimization": "ask for it with serve.precision in model.yaml",
    "model_warmup": "the agent replays the golden files before a release serves",
    "response_cache": "caches are the platform's; they are safe on immutable releases only",
    "version_policy": "a release is one immutable version",
    "runtime": "the same folder runs on more than one backend implementation",
    "model_operations": "only ONNX graphs are loaded",
    "model_repository_agents": "only the agent writes to the repository",
    "default_model_filename": "a step's graph is called model.onnx",
    "cc_model_filenames": "a step's graph is called model.onnx",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a model folder, and what to do about it."""

    file: str
    message: str
    remedy: str
    line: int | None = None
    key: str | None = None

    def error(self) -> BadInput:
        """The same as an exception."""
        return BadInput(self.message, file=self.file, line=self.line, key=self.key, remedy=self.remedy)


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


@dataclass(frozen=True)
class RenderedRelease:
    """Everything that Triton is told of one release. Names are immutable: other content gets other names."""

    name: str
    """The release's ensemble, ``<model>.<first 12 digits of the digest>``."""
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


def check_pipeline(pipeline: TritonPipeline, model: str, task: Task, folder: Path) -> list[Problem]:
    """Problems of a pipeline: fields that are the platform's, disagreement between steps or with the task's table."""
    problems: list[Problem] = []
    for name, config in {model: pipeline.ensemble, **pipeline.steps}.items():
        problems += _check_own_fields(name, config, folder / name / CONFIG_FILE)
    problems += _check_steps(pipeline, folder)
    problems += _check_ensemble(pipeline, model, folder)
    problems += _check_task(pipeline.ensemble, task, folder / model / CONFIG_FILE)
    return problems


def check_graph(
    config: ModelConfig, inputs: Iterable[Tensor], outputs: Iterable[Tensor], file: Path | str
) -> list[Problem]:
    """Problems between a step's configuration and the signature of its ONNX graph (dynamic sizes are -1).

    Triton checks declared dimensions only loosely: a missing batch dimension loads, and then answers wrongly.
    """
    problems: list[Problem] = []
    for side, declared, actual in (("input", config.input, inputs), ("output", config.output, outputs)):
        graph = {tensor.name: tensor for tensor in actual}
        for tensor in declared:
            found = graph.pop(tensor.name, None)
            key = f"{side} {tensor.name!r}"
            if found is None:
                have = ", ".join(sorted(t.name for t in actual)) or "none"
                problems.append(
                    Problem(str(file), f"the graph has no such {side} (it has: {have})", "rename one of them", key=key)
                )
                continue
            wanted = _full_dims(config, tensor)
            if _type_name(tensor) != found.data_type:
                message = f"is declared {_type_name(tensor)}, but the graph's is {found.data_type}"
                problems.append(Problem(str(file), message, f"write data_type: {found.data_type}", key=key))
            if not _graph_fits(wanted, found.dims):
                batch = ", with the batch dimension of max_batch_size in front" if config.max_batch_size > 0 else ""
                message = f"is declared {list(wanted)}{batch}, but the graph's is {list(found.dims)}"
                problems.append(Problem(str(file), message, "correct dims or max_batch_size", key=key))
        problems += [
            Problem(str(file), "is in the graph and not declared", f"declare this {side}", key=f"{side} {name!r}")
            for name in graph
        ]
    return problems


def render(
    pipeline: TritonPipeline, settings: InstanceSettings, graph_hashes: Mapping[str, str], model: str, release: str
) -> RenderedRelease:
    """Render a release's configurations.

    Args:
        pipeline: configurations that the release carries.
        settings: what the stack decides.
        graph_hashes: sha256 of each step's ``model.onnx``, by step.
        model: name of the model.
        release: digest of the release.

    A step's name carries a hash of its graph and its configuration, so that releases share what did not change and
    never what did.
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
        content = hashlib.sha256(f"{graph_hashes[step]}\n{_to_text(config)}".encode()).hexdigest()
        config.name = steps[step] = f"{model}.{step}.{content[:12]}"
        configs[config.name] = _to_text(config)
    ensemble = _copy(pipeline.ensemble)
    ensemble.name = f"{model}.{release[:12]}"
    ensemble.parameters["release"].string_value = release
    for step in ensemble.ensemble_scheduling.step:
        step.model_name = steps[step.model_name]
        step.model_version = -1
    configs[ensemble.name] = _to_text(ensemble)
    return RenderedRelease(ensemble.name, model, steps, configs, _to_text(_alias(ensemble, model)))


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


def _check_own_fields(name: str, config: ModelConfig, file: Path) -> list[Problem]:
    problems: list[Problem] = []
    if config.name and config.name != name:
        problems.append(
            Problem(str(file), f"is {config.name!r}, but the folder is {name!r}", f'write name: "{name}"', key="name")
        )
    for descriptor, _ in config.ListFields():
        if descriptor.name in _PLATFORM_FIELDS:
            problems.append(
                Problem(
                    str(file),
                    "is rendered by the platform and refused in a model folder",
                    f"remove it; {_PLATFORM_FIELDS[descriptor.name]}",
                    key=descriptor.name,
                )
            )
    problems += [
        Problem(
            str(file),
            "is a backend parameter, which the platform renders",
            "remove it; threads are serve.threads in model.yaml",
            key=f"parameters {parameter!r}",
        )
        for parameter in config.parameters
    ]
    return problems


def _check_steps(pipeline: TritonPipeline, folder: Path) -> list[Problem]:
    problems: list[Problem] = []
    for name, config in pipeline.steps.items():
        file = str(folder / name / CONFIG_FILE)
        if config.backend != BACKEND or config.platform:
            found = config.backend or config.platform or "nothing"
            # Only ONNX graphs are ever loaded by a server: a Python step would be code from training.
            problems.append(
                Problem(file, f"is {found!r}", f'write backend: "{BACKEND}" and no platform', key="backend")
            )
        for side, tensors in (("input", config.input), ("output", config.output)):
            if not tensors:
                problems.append(Problem(file, "is missing", f"declare the step's {side}s", key=side))
        if config.HasField("sequence_batching") or (config.HasField("dynamic_batching") and config.max_batch_size < 1):
            problems.append(
                Problem(file, "does not go with max_batch_size 0", "set max_batch_size, or remove it", key="batching")
            )
    missing = [step for step in PIPELINE_STEPS if step not in pipeline.steps]
    problems += [
        Problem(str(folder / step / CONFIG_FILE), "there is no such file", f"describe the step {step!r}")
        for step in missing
    ]
    return problems


def _check_ensemble(pipeline: TritonPipeline, model: str, folder: Path) -> list[Problem]:
    """Follow the tensors along the ensemble's steps."""
    config, file = pipeline.ensemble, str(folder / model / CONFIG_FILE)
    problems: list[Problem] = []
    if config.platform != "ensemble" or config.backend:
        problems.append(Problem(file, f"is {config.platform!r}", 'write platform: "ensemble"', key="platform"))
    if config.max_batch_size != 0:
        # Such an ensemble over steps that do not batch loads, and then fails every request.
        problems.append(Problem(file, f"is {config.max_batch_size}", "write max_batch_size: 0", key="max_batch_size"))
    known: dict[str, tuple[str, tuple[int, ...]]] = {
        tensor.name: (_type_name(tensor), _full_dims(config, tensor)) for tensor in config.input
    }
    used: set[str] = set()
    for step in config.ensemble_scheduling.step:
        target = pipeline.steps.get(step.model_name)
        key = f"step {step.model_name!r}"
        if target is None:
            problems.append(
                Problem(
                    file,
                    "names no step of this folder",
                    f"its steps are: {', '.join(sorted(pipeline.steps)) or 'none'}",
                    key=key,
                )
            )
            continue
        used.add(step.model_name)
        problems += _check_map(file, key, "input_map", step.input_map, target.input)
        problems += _check_map(file, key, "output_map", step.output_map, target.output)
        for tensor in target.input:
            source = step.input_map.get(tensor.name)
            if not source:
                continue
            if source not in known:
                problems.append(
                    Problem(file, f"reads {source!r}, which no earlier step writes", "put the steps in order", key=key)
                )
                continue
            problems += _disagreement(file, f"{key} input {tensor.name!r}", known[source], target, tensor)
        for tensor in target.output:
            if step.output_map.get(tensor.name):
                known[step.output_map[tensor.name]] = (_type_name(tensor), _full_dims(target, tensor))
    for tensor in config.output:
        if tensor.name not in known:
            problems.append(
                Problem(file, "is written by no step", "map a step's output to it", key=f"output {tensor.name!r}")
            )
        else:
            problems += _disagreement(file, f"output {tensor.name!r}", known[tensor.name], config, tensor)
    unused = sorted(set(pipeline.steps) - used)
    problems += [Problem(file, "is used by no step of the ensemble", "use or remove it", key=name) for name in unused]
    return problems


def _check_map(file: str, key: str, side: str, mapping: Mapping[str, str], tensors: Any) -> list[Problem]:
    names = {tensor.name for tensor in tensors}
    problems = [
        Problem(file, f"{side} names {name!r}, which the step does not have", f"it has: {sorted(names)}", key=key)
        for name in sorted(set(mapping) - names)
    ]
    if side == "input_map":
        problems += [
            Problem(file, f"{side} does not give {name!r}", "map a tensor to it", key=key)
            for name in sorted(names - set(mapping))
        ]
    return problems


def _disagreement(
    file: str, key: str, given: tuple[str, tuple[int, ...]], config: ModelConfig, tensor: Any
) -> list[Problem]:
    wanted = (_type_name(tensor), _full_dims(config, tensor))
    if given[0] != wanted[0]:
        return [Problem(file, f"is {wanted[0]}, but what it gets is {given[0]}", "make the types agree", key=key)]
    if not _compatible(given[1], wanted[1]):
        message = f"has shape {list(wanted[1])}, but what it gets has {list(given[1])}"
        return [Problem(file, message, "make the dims agree (a batch dimension counts)", key=key)]
    return []


def _check_task(config: ModelConfig, task: Task, file: Path) -> list[Problem]:
    """Disagreement of the ensemble with the task's table; further named inputs are allowed."""
    table = TASKS[task]
    problems: list[Problem] = []
    for side, wanted, declared in (("input", table.inputs, config.input), ("output", table.outputs, config.output)):
        found = {tensor.name: tensor for tensor in declared}
        for tensor in wanted:
            key, remedy = f"{side} {tensor.name!r}", f"write {tensor.data_type} {list(tensor.dims)}"
            actual = found.pop(tensor.name, None)
            if actual is None:
                problems.append(Problem(str(file), f"is missing; task {task} has it", remedy, key=key))
            elif _type_name(actual) != tensor.data_type:
                message = f"is {_type_name(actual)}, but task {task} says {tensor.data_type}"
                problems.append(Problem(str(file), message, remedy, key=key))
            elif len(actual.dims) != len(tensor.dims) or not _compatible(tuple(actual.dims), tensor.dims):
                message = f"has dims {list(actual.dims)}, but task {task} says {list(tensor.dims)}"
                problems.append(Problem(str(file), message, remedy, key=key))
    return problems


def _compatible(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    return len(left) == len(right) and all(a == b or -1 in (a, b) for a, b in zip(left, right, strict=True))


def _graph_fits(declared: tuple[int, ...], graph: tuple[int, ...]) -> bool:
    """Whether every declared shape is one that the graph takes or gives: a declared -1 wants a dynamic size."""
    return len(declared) == len(graph) and all(g in (-1, d) for d, g in zip(declared, graph, strict=True))


def _full_dims(config: ModelConfig, tensor: Any) -> tuple[int, ...]:
    """Dimensions on the wire: Triton leaves the batch out of dims where a model batches."""
    return ((-1,) if config.max_batch_size > 0 else ()) + tuple(tensor.dims)


def _type_name(tensor: Any) -> str:
    descriptor = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type
    return str(descriptor.values_by_number[tensor.data_type].name)


def _copy(config: ModelConfig) -> ModelConfig:
    duplicate = type(config)()
    duplicate.CopyFrom(config)
    return duplicate


def _to_text(config: ModelConfig) -> str:
    from google.protobuf import text_format

    return text_format.MessageToString(config)
