"""Whether what the models ask for fits onto the nodes that there are, and where each part goes. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from modelport.errors import BadInput

GIB = 1024**3


class Use(StrEnum):
    """What runs on nodes."""

    TRAINING = "training"
    SERVING = "serving"


@dataclass(frozen=True)
class Shape:
    """Like nodes: what pods can have of one of them, and how many there may be."""

    name: str
    cpus: float
    """Allocatable cores, after what the system reserves."""
    memory: int
    """Allocatable bytes, after what the system reserves."""
    count: int
    """Nodes at most."""
    gpus: int = 0
    gpu_memory: int = 0
    """Bytes that one pod's GPU (or partition of one) has."""
    accelerator: str | None = None
    uses: frozenset[str] = frozenset(Use)
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: Sequence[Mapping[str, Any]] = ()
    spot: bool = False
    shared: bool = False
    """Whether its GPUs are shared in time: a pod then gets one of them at most."""


@dataclass(frozen=True)
class Demand:
    """Like pods of one model."""

    model: str
    part: str
    """``serve``, ``train head`` or ``train worker``."""
    use: Use
    pods: int
    cpus: float
    memory: int
    gpus: int = 0
    gpu_memory: int = 0
    accelerator: str | None = None
    key: str = ""
    """Where it is said, such as ``models/polyp_seg/model.yaml: serve``."""


@dataclass(frozen=True)
class Placed:
    """A demand, and the shape that takes it."""

    demand: Demand
    shape: Shape


def bytes_of(quantity: str) -> int:
    """Bytes of a Kubernetes quantity of memory such as ``4Gi``."""
    units = {"Ki": 1024, "Mi": 1024**2, "Gi": GIB, "Ti": 1024 * GIB}
    return int(quantity[:-2]) * units[quantity[-2:]]


def place(demands: Sequence[Demand], shapes: Sequence[Shape]) -> list[Placed]:
    """The first shape, in the stack's order, that takes each demand; models without GPUs prefer nodes without.

    Everything that serves must run at once. Trainings queue: each must fit, its head and workers together, beside all
    that serves on the same nodes.

    Raises:
        BadInput: naming the model, and for every shape the limit that it exceeds.
    """
    found = [Placed(demand, _shape_for(demand, shapes)) for demand in demands]
    serving = [placed for placed in found if placed.demand.use is Use.SERVING]
    _check_room(serving, "everything that serves")
    for model in sorted({demand.model for demand in demands}):
        training = [p for p in found if p.demand.use is Use.TRAINING and p.demand.model == model]
        names = {p.shape.name for p in training}
        beside = [p for p in serving if p.shape.name in names]
        _check_room([*training, *beside], f"the training of {model}" + (", beside what serves," if beside else ""))
    return found


def _shape_for(demand: Demand, shapes: Sequence[Shape]) -> Shape:
    candidates = sorted(shapes, key=lambda shape: bool(shape.gpus) != bool(demand.gpus))
    reasons: list[str] = []
    for shape in candidates:
        reason = _misfit(demand, shape)
        if reason is None:
            return shape
        reasons.append(f"  {shape.name}: {reason}")
    if not reasons:
        reasons = ["  the stack has no nodes for models"]
    raise BadInput(
        f"{demand.model}: {demand.part} fits on no node of this stack\n" + "\n".join(reasons),
        key=demand.key,
        remedy="ask for less in the model, or override it under modelport:models, or add a larger node pool",
    )


def _misfit(demand: Demand, shape: Shape) -> str | None:
    if demand.use not in shape.uses:
        return f"is not for {demand.use}"
    if demand.accelerator and demand.accelerator != shape.accelerator:
        return f"has {shape.accelerator or 'no GPU'}, {demand.accelerator} is wanted"
    if shape.shared and demand.gpus > 1:
        return f"GPUs: {demand.gpus} wanted, and a pod gets one of GPUs that are shared"
    limits = (
        ("GPUs", demand.gpus, shape.gpus, "{:g}"),
        ("GPU memory", demand.gpu_memory if demand.gpus else 0, shape.gpu_memory, "{}"),
        ("CPU", demand.cpus, shape.cpus, "{:g}"),
        ("memory", demand.memory, shape.memory, "{}"),
    )
    for name, wanted, there, form in limits:
        if wanted > there:
            texts = [_gib(x) if form == "{}" else form.format(round(x, 2)) for x in (wanted, there)]
            return f"{name}: {texts[0]} wanted, {texts[1]} allocatable on a node"
    return None


def _check_room(placed: Sequence[Placed], what: str) -> None:
    """First-fit decreasing of all pods of each shape onto its nodes."""
    for shape in {p.shape.name: p.shape for p in placed}.values():
        pods = [p.demand for p in placed if p.shape.name == shape.name for _ in range(p.demand.pods)]
        pods.sort(key=lambda pod: (pod.gpus, pod.memory, pod.cpus), reverse=True)
        nodes: list[list[float]] = []
        for pod in pods:
            need = (pod.gpus, pod.memory, pod.cpus)
            for node in nodes:
                if all(have >= want for have, want in zip(node, need, strict=True)):
                    break
            else:
                node = [float(shape.gpus), float(shape.memory), shape.cpus]
                nodes.append(node)
            for index, want in enumerate(need):
                node[index] -= want
        if len(nodes) > shape.count:
            # Whoever asks for most first: that is where to look.
            counted = Counter(sorted(pod.model for pod in pods)).most_common()
            (most, count), *others = counted
            owners = ", ".join([f"{count} pods of {most}", *(f"{count} of {model}" for model, count in others)])
            raise BadInput(
                f"{shape.name} has at most {shape.count} node(s), and {what} needs {len(nodes)} ({owners})",
                key=next(pod.key for pod in pods if pod.model == most),
                remedy="raise the pool's maximum, take a larger machine, or ask for fewer replicas or workers",
            )


def table(placed: Sequence[Placed]) -> str:
    """What goes where, for people."""
    heads = ("model", "part", "pods", "CPU", "memory", "GPU", "nodes")
    rows = [
        (
            p.demand.model,
            p.demand.part,
            str(p.demand.pods),
            f"{p.demand.cpus:g}",
            _gib(p.demand.memory),
            f"{p.demand.gpus} x {p.shape.accelerator}" if p.demand.gpus else "-",
            p.shape.name + (" (spot)" if p.shape.spot else ""),
        )
        for p in placed
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    ]
    return "\n".join(lines)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}Gi"
