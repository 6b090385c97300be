"""``model.yaml``: what the platform must know of a model, and nothing about an environment."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from modelport.contract.source import Source, read_yaml
from modelport.contract.tasks import LESS_IS_BETTER, TASKS, Task
from modelport.errors import BadInput

SPEC_FILE = "model.yaml"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9_]{0,38}[a-z0-9])?$")]
"""Of a model or a pool of servers: what Kubernetes takes when each _ has become a -."""
Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi)$", examples=["4Gi"])]
Duration = Annotated[str, Field(pattern=r"^[1-9][0-9]*(s|m|h|d)$", examples=["30m", "2h"])]
Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
ParameterValue = Scalar | list[Scalar]


class Direction(StrEnum):
    """Which way a metric gets better."""

    MAX = "max"
    MIN = "min"


class Precision(StrEnum):
    """Arithmetic of the served network."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class _Section(BaseModel):
    # Unknown keys are refused: a misspelt key must not be a setting that silently does nothing.
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassSpec(_Section):
    """One class of the label map; its position in the list is its id."""

    name: str = Field(min_length=1, description="Name that people see.")
    color: str = Field(
        default="#ff3b30", pattern=r"^#[0-9a-fA-F]{6}$", description="Display colour in overlays, #rrggbb."
    )

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Colour as (red, green, blue), each 0 to 255."""
        return (int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16))


class DataSpec(_Section):
    """Which dataset the model learns from. Where it lies is the environment's business."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$", description="Name of the dataset.")
    selection_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=0.5,
        description="Share of the training split that is set aside to select epochs and thresholds on.",
    )
    heldout_fraction: float = Field(
        default=0.15,
        gt=0,
        lt=0.5,
        description="Share that is held out for the gate, where the dataset brings no validation/ of its own.",
    )
    group_pattern: str | None = Field(
        default=None,
        description="Regular expression on an example's name whose first group says what must not be divided between "
        "splits, such as `^(.{8})` where the first 8 characters are the patient; what a groups.csv in the dataset's "
        "folder says goes before.",
    )


class SelectSpec(_Section):
    """Which epoch of a training is released."""

    metric: str = Field(description="Metric that train.py reports on the selection split every epoch.")
    direction: Direction = Field(default=Direction.MAX, description="Whether more or less of it is better.")


class WorkersSpec(_Section):
    """The processes that train; a stack may override them."""

    count: int = Field(default=1, ge=1, le=256, description="Number of workers.")
    cpus: float = Field(default=1, gt=0, description="Processor cores of each worker.")
    gpus: int = Field(default=0, ge=0, le=16, description="GPUs of each worker.")
    memory: Quantity = Field(default="4Gi", description="Memory of each worker.")
    gpu_memory: Quantity | None = Field(default=None, description="Memory that each GPU must have at least.")
    accelerator: str | None = Field(
        default=None, description="Kind of GPU wanted, such as nvidia-l4; null takes any that the stack has."
    )


class TrainSpec(_Section):
    """How the model is trained."""

    parameters: dict[Name, ParameterValue] = Field(
        default_factory=dict, description="Parameters handed to train.py; `--set train.NAME=VALUE` changes one."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the selection split, initial weights and data order.")
    select: SelectSpec = Field(description="Which epoch is released.")
    workers: WorkersSpec = Field(default_factory=WorkersSpec, description="The processes that train.")
    schedule: str | None = Field(
        default=None,
        pattern=r"^(\S+\s+){4}\S+$",
        description="Cron expression of regular retraining; null trains only on new code or data.",
    )
    time_limit: Duration = Field(default="2h", description="A training that takes longer is stopped.")
    max_failures: int = Field(default=2, ge=0, le=20, description="Lost workers after which training gives up.")

    @model_validator(mode="before")
    @classmethod
    def _without_unread(cls, value: Any) -> Any:
        # Releases have it, and folders of earlier commits, which a stack's newer image trains. `check` refuses it.
        if not isinstance(value, dict):
            return value
        return {key: each for key, each in cast("dict[Any, Any]", value).items() if key != UNREAD[1]}


class GateSpec(_Section):
    """What a release must reach on the held-out split to be promoted."""

    metric: str = Field(description="Metric that the platform computes for the task.")
    direction: Direction = Field(default=Direction.MAX, description="Whether more or less of it is better.")
    minimum: float = Field(description="Least acceptable value (greatest, where less is better).")
    margin: float = Field(
        default=0.0,
        description="How much better than the serving champion a release must be, in the metric; "
        "a negative margin lets it be that much worse.",
    )


class ServeSpec(_Section):
    """How the model is served; a stack may override the resource parts."""

    replicas: int = Field(default=1, ge=1, le=100, description="Copies of the server.")
    precision: Precision = Field(default=Precision.FP32, description="Arithmetic of the network step.")
    cpus: float = Field(default=1, gt=0, description="Processor cores of each replica.")
    gpus: int = Field(default=0, ge=0, le=8, description="GPUs of each replica.")
    memory: Quantity = Field(default="2Gi", description="Memory of each replica.")
    gpu_memory: Quantity | None = Field(default=None, description="Memory that each GPU must have at least.")
    accelerator: str | None = Field(
        default=None, description="Kind of GPU wanted, such as nvidia-l4; null takes any that the stack has."
    )
    instances: dict[Name, Annotated[int, Field(ge=1, le=64)]] = Field(
        default_factory=dict, description="Parallel instances by step (preprocess, network, postprocess); 1 by default."
    )
    threads: int = Field(default=1, ge=1, le=64, description="Threads inside one instance.")
    pool: ModelName | None = Field(default=None, description="Server pool to share; null gives the model its own.")
    latency_ms: float = Field(default=500, gt=0, description="Service-level objective: 99th percentile in ms.")
    requests_per_second: float = Field(default=1, gt=0, description="Service-level objective: requests per second.")


class ModelSpec(_Section):
    """A model folder's ``model.yaml``."""

    name: ModelName = Field(description="Name of the model; the same as its folder.")
    task: Task = Field(description="What the model answers; decides its inputs, outputs and metrics.")
    owner: str = Field(min_length=1, description="Team or person who answers for the model.")
    description: str = Field(default="", description="One sentence for lists and pages.")
    license: str = Field(min_length=1, description="Licence of the model, as an SPDX expression.")
    classes: tuple[ClassSpec, ...] = Field(
        min_length=1,
        max_length=256,
        description="Label map, in order of ids; in a segmentation id 0 is the background.",
    )
    data: DataSpec = Field(description="Which dataset the model learns from.")
    train: TrainSpec = Field(description="How it is trained.")
    gate: GateSpec = Field(description="What a release must reach to be promoted.")
    serve: ServeSpec = Field(default_factory=ServeSpec, description="How it is served.")


UNREAD = ("train", "search")
"""A key of earlier commits that nothing ever read."""


def load_spec(folder: Path) -> ModelSpec:
    """Read and validate ``model.yaml`` of a model folder.

    Raises:
        BadInput: naming file, line, key, what was found and what to do.
    """
    source = read_yaml(folder / SPEC_FILE)
    spec = _validated(source.data, source)
    if spec.name != folder.name:
        raise BadInput(
            f"is {spec.name!r}, but the folder is called {folder.name!r}",
            file=source.file,
            line=source.line(("name",)),
            key="name",
            remedy=f"write `name: {folder.name}`, or rename the folder",
        )
    return spec


def parse_spec(text: str, file: Path | str = SPEC_FILE) -> ModelSpec:
    """Validate the text of a ``model.yaml``, such as the copy that a release carries."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data: Any = YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType]
    except YAMLError as error:
        raise BadInput(f"is not valid YAML: {error}", file=file) from None
    return _validated(data, Source(Path(file), {}, {}))


def apply_overrides(spec: ModelSpec, assignments: Sequence[str]) -> ModelSpec:
    """Spec with ``KEY=VALUE`` assignments applied; ``train.NAME`` means the parameter NAME where train has no such key.

    Values are read as YAML. A parameter must exist and keeps its type (an integer is taken where a float stands).

    Raises:
        BadInput: naming the assignment.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    data: dict[str, Any] = spec.model_dump(mode="json")
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise BadInput(
                "is not KEY=VALUE", key=f"--set {assignment}", remedy="write for example --set train.epochs=3"
            )
        try:
            value: Any = YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType]
        except YAMLError:
            value = text
        path = key.split(".")
        if path[0] == "train" and len(path) == 2 and path[1] not in TrainSpec.model_fields:
            path = ["train", "parameters", path[1]]
        if path[:2] == ["train", "parameters"] and len(path) == 3:
            value = _parameter_value(spec, path[2], value, assignment)
        _assign(data, path, value, assignment)
    return _validated(data, Source(Path("--set"), {}, {}))


def json_schema() -> dict[str, Any]:
    """JSON schema of ``model.yaml``, for editors."""
    schema = ModelSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "modelport model.yaml"}


def duration_seconds(duration: str) -> int:
    """Seconds of a duration such as ``30m``."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[duration[-1]]


def _parameter_value(spec: ModelSpec, name: str, value: Any, assignment: str) -> Any:
    known = spec.train.parameters
    if name not in known:
        raise BadInput(
            f"{spec.name} has no parameter {name!r}",
            key=f"--set {assignment}",
            remedy=f"its parameters are: {', '.join(sorted(known)) or 'none'}; new ones go into model.yaml",
        )
    current = known[name]
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(current):
        raise BadInput(
            f"parameter {name!r} is of type {type(current).__name__}, not {type(value).__name__}",
            key=f"--set {assignment}",
            remedy=f"its value in model.yaml is {current!r}",
        )
    return value


def _assign(data: dict[str, Any], path: list[str], value: Any, assignment: str) -> None:
    node: Any = data
    for part in path[:-1]:
        node = node.get(part) if isinstance(node, dict) else None  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(node, dict) or (path[-1] not in node and path[:-1] != ["serve", "instances"]):
        raise BadInput("there is no such key", key=f"--set {assignment}", remedy="`modelport schema` lists the keys")
    node[path[-1]] = value


def _validated(data: Any, source: Source) -> ModelSpec:
    try:
        spec = ModelSpec.model_validate(data)
    except ValidationError as error:
        # Every problem is told at once; the first one decides the position that editors jump to.
        by_key: dict[str | None, BadInput] = {}
        for detail in error.errors(include_url=False):
            problem = _problem(source, detail)
            by_key.setdefault(problem.key, problem)
        first, *others = by_key.values()
        message = first.message
        for other in others:
            message += f"\n{other.file}:{other.line}: {other.key}: {other.message} ({other.remedy})"
        raise BadInput(message, file=first.file, line=first.line, key=first.key, remedy=first.remedy) from None
    for location, message in _disagreements(spec):
        raise BadInput(
            message,
            file=source.file,
            line=source.line(location),
            key=".".join(location),
            remedy="correct it; `modelport schema` describes every key",
        )
    return spec


def _disagreements(spec: ModelSpec) -> list[tuple[tuple[str, ...], str]]:
    """Keys that are valid alone and do not fit the others."""
    found: list[tuple[tuple[str, ...], str]] = []
    metrics = TASKS[spec.task].metrics
    if spec.gate.metric not in metrics:
        message = f"is {spec.gate.metric!r}; for {spec.task} the platform computes: {', '.join(metrics)}"
        found.append((("gate", "metric"), message))
    elif (spec.gate.direction is Direction.MIN) != (spec.gate.metric in LESS_IS_BETTER):
        right = Direction.MAX if spec.gate.direction is Direction.MIN else Direction.MIN
        found.append((("gate", "direction"), f"is {spec.gate.direction}; of {spec.gate.metric} it is {right}"))
    if spec.task is Task.SEGMENT and len(spec.classes) < 2:
        found.append((("classes",), "of a segmentation are the background and at least one more"))
    if spec.task is Task.CLASSIFY and len(spec.classes) < 2:
        found.append((("classes",), "of a classification are two at least"))
    names = [label.name for label in spec.classes]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        found.append((("classes",), f"name {twice!r} twice"))
    if spec.data.group_pattern is not None and not _has_one_group(spec.data.group_pattern):
        message = f"is {spec.data.group_pattern!r}, no regular expression with exactly one group in parentheses"
        found.append((("data", "group_pattern"), message))
    return found


def _has_one_group(pattern: str) -> bool:
    try:
        return re.compile(pattern).groups == 1
    except re.error:
        return False


def _problem(source: Source, detail: Any) -> BadInput:
    kind: str = detail["type"]
    location: list[str | int] = list(detail["loc"])
    if kind not in ("missing", "extra_forbidden"):
        # Members of unions appear in pydantic's locations as type names; only what stands in the file is a key.
        while location and source.lines and tuple(location) not in source.lines:
            location.pop()
    key = ".".join(map(str, location)) or "model.yaml"
    message: str = detail["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        message, remedy = "is not a known key", f"known keys here: {', '.join(known)}" if known else "remove it"
    elif kind == "missing":
        message, remedy = "is missing", "add it; `modelport schema` describes every key"
    elif kind == "value_error":
        remedy = "correct it; `modelport schema` describes every key"
    else:
        message += f", but found {detail.get('input')!r}"
        remedy = "correct the value; `modelport schema` describes every key"
    return BadInput(message, file=source.file, line=source.line(location), key=key, remedy=remedy)


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Keys of the section at a location, following the models' own annotations."""
    section: type[BaseModel] = ModelSpec
    for part in location:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        if field is None:
            return []
        inner = field.annotation
        for candidate in (inner, *getattr(inner, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                section = candidate
                break
        else:
            return []
    return sorted(section.model_fields)
