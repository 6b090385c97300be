"""The model contract: specification, Triton configurations, bundle, check. Pure: reads the folder and nothing else."""

from modelport.contract.bundle import Bundle, pack, unpack
from modelport.contract.check import check
from modelport.contract.discovery import ModelFolder, discover, find_model, unpack_model
from modelport.contract.spec import (
    ClassSpec,
    Direction,
    GateSpec,
    ModelSpec,
    Precision,
    ServeSpec,
    apply_overrides,
    duration_seconds,
    json_schema,
    load_spec,
    parse_spec,
)
from modelport.contract.steps import CANDIDATES, IMAGE, LOGITS, StepNames, step_names
from modelport.contract.tasks import TASKS, Task, TaskTable, Tensor
from modelport.contract.triton import (
    CONFIG_FILE,
    InstanceSettings,
    RenderedRelease,
    TritonPipeline,
    parse_config,
    read_config,
    read_pipeline,
    render,
)
from modelport.contract.triton_check import Problem, check_graph, check_pipeline, check_wiring

__all__ = [
    "CANDIDATES",
    "CONFIG_FILE",
    "IMAGE",
    "LOGITS",
    "TASKS",
    "Bundle",
    "ClassSpec",
    "Direction",
    "GateSpec",
    "InstanceSettings",
    "ModelFolder",
    "ModelSpec",
    "Precision",
    "Problem",
    "RenderedRelease",
    "ServeSpec",
    "StepNames",
    "Task",
    "TaskTable",
    "Tensor",
    "TritonPipeline",
    "apply_overrides",
    "check",
    "check_graph",
    "check_pipeline",
    "check_wiring",
    "discover",
    "duration_seconds",
    "find_model",
    "json_schema",
    "load_spec",
    "pack",
    "parse_config",
    "parse_spec",
    "read_config",
    "read_pipeline",
    "render",
    "step_names",
    "unpack",
    "unpack_model",
]
