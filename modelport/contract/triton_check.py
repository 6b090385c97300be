"""Whether Triton configurations agree: with the contract, between steps, with the task's table, with the graphs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelport.contract.steps import IMAGE, step_names
from modelport.contract.tasks import TASKS, Task, Tensor
from modelport.contract.triton import CONFIG_FILE, ModelConfig, TritonPipeline
from modelport.errors import BadInput

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


def check_pipeline(pipeline: TritonPipeline, model: str, task: Task, folder: Path) -> list[Problem]:
    """Problems of a pipeline: fields that are the platform's, disagreement between steps or with the task's table."""
    problems: list[Problem] = []
    for name, config in {model: pipeline.ensemble, **pipeline.steps}.items():
        problems += _check_own_fields(name, config, folder / name / CONFIG_FILE)
    problems += _check_steps(pipeline, folder)
    problems += _check_ensemble(pipeline, model, folder)
    problems += _check_task(pipeline.ensemble, task, folder / model / CONFIG_FILE)
    return problems


def check_wiring(pipeline: TritonPipeline, model: str, task: Task, folder: Path) -> list[Problem]:
    """Problems of `check_pipeline`; without any, where it computes something else than the task's steps in a row.

    Those are what is exported and what the gate measures, whatever the configurations say. Servers do not ask for it:
    they go on with what was promoted before the gate did.
    """
    if problems := check_pipeline(pipeline, model, task, folder):
        return problems
    steps = step_names(task)
    for step, config in pipeline.steps.items():
        file = str(folder / step / CONFIG_FILE)
        if step not in steps:
            remedy = f"there are {', '.join(steps)}: do its work in one of them"
            problems.append(Problem(file, f"is no step of task {task}", remedy))
            continue
        for side, wanted, declared in (
            ("input", steps[step].inputs, config.input),
            ("output", steps[step].outputs, config.output),
        ):
            names = [tensor.name for tensor in declared]
            if sorted(names) != sorted(wanted):
                message = f"are {', '.join(names)}, but the step's are {', '.join(wanted)}"
                problems.append(Problem(file, message, "name them so", key=f"{side}s"))
    return problems or _check_order(pipeline.ensemble, task, str(folder / model / CONFIG_FILE))


def _check_order(ensemble: ModelConfig, task: Task, file: str) -> list[Problem]:
    """Whether an ensemble runs each step once, in order, and gives it the tensors of the same name in the steps."""
    steps = ensemble.ensemble_scheduling.step
    ran, wanted = [step.model_name for step in steps], list(step_names(task))
    if ran != wanted:
        remedy = "run each once, in this order"
        return [
            Problem(
                file, f"are {', '.join(ran)}, but those of task {task} are {', '.join(wanted)}", remedy, key="steps"
            )
        ]
    problems: list[Problem] = []
    # What each tensor of the ensemble is to the steps: it may be called otherwise in between.
    known = {IMAGE: IMAGE}
    for step in steps:
        for name, source in sorted(step.input_map.items()):
            if known.get(source) != name:
                key, message = f"step {step.model_name!r} input {name!r}", f"gets {source!r}, which is another tensor"
                problems.append(Problem(file, message, f"give it the {name!r} of an earlier step", key=key))
        known |= {target: name for name, target in step.output_map.items()}
    problems += [
        Problem(file, "is another tensor of the steps", "map the one of this name to it", key=f"output {tensor.name!r}")
        for tensor in ensemble.output
        if known.get(tensor.name) != tensor.name
    ]
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
