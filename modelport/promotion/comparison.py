"""Variants of a release side by side: size, accuracy and latency, and whether each is worth it.

Accuracy is measured with the gate's metrics. Latency is measured in turns: in every round each way computes the golden
images once, and each round begins with another way, so that a busy moment of the machine hits all alike.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from modelport.contract import Direction, ModelSpec
from modelport.data import Split
from modelport.errors import BadInput
from modelport.promotion.evidence import VARIANT_LOSS, within_loss
from modelport.promotion.metrics import Sample, metrics_of

if TYPE_CHECKING:
    from rich.table import Table

ROUNDS = 20
FASTER_FROM = 1.05
"""How many times as fast a way must be to be called faster: two runs of the same graph differ by less than this."""


@dataclass(frozen=True)
class Way:
    """One way to compute the network step, loaded and ready; everything around the step is the same in all ways."""

    name: str
    """Such as ``onnx int8``."""
    size: int
    """Bytes of the network step, as it is stored."""
    network: Callable[[NDArray[np.float32]], object]
    """The network step alone, on an input float32 [1, 3, S, S]."""
    predict: Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]]
    """The whole pipeline: outputs for an image uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Missing:
    """A way that cannot be measured here."""

    name: str
    why: str
    """Such as ``needs an NVIDIA GPU, and this machine has none``."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Part):
    """Milliseconds of one call."""

    p50: float
    p95: float


class Row(_Part):
    """What was measured of one way; of one that is missing only the verdict says something."""

    name: str
    size: int | None = None
    """Bytes of the network step."""
    metrics: dict[str, float] = {}
    difference: float | None = None
    """The gate's metric less the reference's."""
    network: Latency | None = None
    pipeline: Latency | None = None
    network_speed: float | None = None
    """How many times as fast as the reference the network step is, by the median."""
    speed: float | None = None
    """The same of the whole pipeline."""
    worth_it: bool | None = None
    """None for the reference, and for what was not measured."""
    verdict: str


class Comparison(_Part):
    """The report; the first row is the reference."""

    model: str
    release: str
    """Digest."""
    metric: str
    """The gate's."""
    direction: Direction
    split: str
    """On what the metrics were computed, for people."""
    examples: int
    """Images of that split."""
    golden: int
    """Images that latency was measured on."""
    rounds: int
    threads: int
    machine: str
    rows: tuple[Row, ...]

    def to_markdown(self) -> str:
        """The report for a file; every metric of the task in a table of its own."""
        reference = self.rows[0]
        lines = [
            f"# Variants of {self.model} {self.release[:12]}",
            "",
            *_markdown_table(_columns(self), [_cells(self, row) for row in self.rows]),
            "",
            *(f"- **{row.name}**: {row.verdict}" for row in self.rows),
            "",
            *_markdown_table(
                ("variant", *reference.metrics),
                [
                    (row.name, *(f"{row.metrics[name]:.4f}" for name in reference.metrics))
                    for row in self.rows
                    if row.metrics
                ],
            ),
            "",
            _how(self),
        ]
        return "\n".join(lines) + "\n"

    def to_table(self) -> "Table":
        """The report for a terminal."""
        from rich.table import Table

        table = Table(title=f"{self.model} {self.release[:12]}", caption=_how(self))
        for index, column in enumerate((*_columns(self), "verdict")):
            words = index in (0, len(_columns(self)))
            table.add_column(column, justify="left" if words else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*_cells(self, row), row.verdict)
        return table


def compare_variants(
    release: str,
    spec: ModelSpec,
    ways: Sequence[Way | Missing],
    split: Split,
    *,
    split_name: str,
    images: Sequence[NDArray[np.uint8]],
    inputs: Sequence[NDArray[np.float32]],
    threads: int = 1,
    rounds: int = ROUNDS,
) -> Comparison:
    """Measure all ways, and hold each against the first one.

    Args:
        release: digest.
        spec: ``model.yaml``; its task decides the metrics, its gate which of them counts.
        ways: the first one is the reference (fp32 in ONNX Runtime) and must not be missing.
        split: examples that accuracy is measured on.
        split_name: what people know it by, such as ``selection split``.
        images: golden images, uint8 [H, W, 3].
        inputs: what the network step gets of each, float32 [1, 3, S, S].
        threads: with which all ways were loaded; the report says so.

    Raises:
        BadInput: the reference cannot answer, or the split does not define the gate's metric.
    """
    accuracies: dict[str, dict[str, float]] = {}
    measured: list[Way | Missing] = []
    for way in ways:
        try:
            if isinstance(way, Way):
                accuracies[way.name] = _accuracy(way, split, spec)
            measured.append(way)
        except _Unable as error:
            measured.append(Missing(way.name, str(error)))
    reference = measured[0]
    if isinstance(reference, Missing):
        raise BadInput(f"{reference.name}, which all is held against, {reference.why}", key="--compare")
    if spec.gate.metric not in accuracies[reference.name]:
        raise BadInput(
            f"{spec.gate.metric} cannot be computed on the {split_name}",
            key="gate.metric",
            remedy="add examples of every class",
        )
    running = [way for way in measured if isinstance(way, Way)]
    network, pipeline = _latencies(running, images, inputs, rounds)
    base = reference.name

    def row(way: Way | Missing) -> Row:
        if isinstance(way, Missing):
            return Row(name=way.name, verdict=f"not measured: {way.why}")
        metrics = accuracies[way.name]
        difference = metrics[spec.gate.metric] - accuracies[base][spec.gate.metric]
        speed = pipeline[base].p50 / pipeline[way.name].p50
        worth_it, verdict = (None, "the reference")
        if way.name != base:
            loss = -difference if spec.gate.direction is Direction.MAX else difference
            worth_it, verdict = judge(loss, speed)
        return Row(
            name=way.name,
            size=way.size,
            metrics=metrics,
            difference=difference,
            network=network[way.name],
            pipeline=pipeline[way.name],
            network_speed=network[base].p50 / network[way.name].p50,
            speed=speed,
            worth_it=worth_it,
            verdict=verdict,
        )

    return Comparison(
        model=spec.name,
        release=release,
        metric=spec.gate.metric,
        direction=spec.gate.direction,
        split=split_name,
        examples=len(split),
        golden=len(images),
        rounds=rounds,
        threads=threads,
        machine=platform.machine(),
        rows=tuple(row(way) for way in measured),
    )


def judge(loss: float, speed: float) -> tuple[bool, str]:
    """Whether a way is worth it, and a sentence that says why.

    Args:
        loss: how much worse the gate's metric is than the reference's; negative where it is better.
        speed: how many times as fast as the reference its whole pipeline is.
    """
    points = round(100 * loss, 2)
    unit = "point" if abs(points) == 1 else "points"
    accuracy = "as good" if points == 0 else f"{abs(points):g} {unit} {'worse' if points > 0 else 'better'}"
    how_fast = f"{speed:.2f} times as fast"
    faster, good = speed >= FASTER_FROM, within_loss(loss)
    if faster and good:
        return True, f"worth it: {how_fast}, {accuracy}"
    reasons = ([] if good else [f"{accuracy}, and at most {100 * VARIANT_LOSS:g} is allowed"]) + (
        [] if faster else [f"not faster ({how_fast})"]
    )
    return False, f"not worth it: {'; '.join(reasons)}"


class _Unable(Exception):
    """A way cannot answer an image; the message says why."""


def _accuracy(way: Way, split: Split, spec: ModelSpec) -> dict[str, float]:
    metrics = metrics_of(spec.task)
    samples: list[Sample] = []
    for index, name in enumerate(split.ids):
        image, truth = split.image(index), split.target(index)
        try:
            outputs = way.predict(image)
        except Exception as error:  # whatever runtime it is raises what it likes
            raise _Unable(f"fails on image {name}: {error}") from error
        try:
            samples.append(metrics.measure(outputs, truth, len(spec.classes)))
        except ValueError as error:
            raise _Unable(f"answers image {name} wrongly: {error}") from error
    return metrics.summarize(samples)


def _latencies(
    ways: Sequence[Way], images: Sequence[NDArray[np.uint8]], inputs: Sequence[NDArray[np.float32]], rounds: int
) -> tuple[dict[str, Latency], dict[str, Latency]]:
    """Of the network step and of the whole pipeline, by way."""
    network: dict[str, list[float]] = {way.name: [] for way in ways}
    pipeline: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds + 1):
        first = number % len(ways)
        for way in (*ways[first:], *ways[:first]):
            steps = [_milliseconds(way.network, tensor) for tensor in inputs]
            wholes = [_milliseconds(way.predict, image) for image in images]
            # The first round only warms up: memory is taken and kernels are chosen in it.
            if number:
                network[way.name] += steps
                pipeline[way.name] += wholes
    return _summary(network), _summary(pipeline)


def _milliseconds(call: Callable[[NDArray[Any]], object], value: NDArray[Any]) -> float:
    started = time.perf_counter()
    call(value)
    return (time.perf_counter() - started) * 1000


def _summary(times: Mapping[str, Sequence[float]]) -> dict[str, Latency]:
    return {
        name: Latency(p50=float(np.percentile(values, 50)), p95=float(np.percentile(values, 95)))
        for name, values in times.items()
    }


def _how(comparison: Comparison) -> str:
    threads = "1 thread" if comparison.threads == 1 else f"{comparison.threads} threads"
    return (
        f"{comparison.metric} on {comparison.examples} images of the {comparison.split}; latency in ms (p50 / p95) of "
        f"{comparison.golden} golden images in {comparison.rounds} rounds, the ways in turns, {threads}, "
        f"{comparison.machine}; speed is the whole pipeline's, by the median."
    )


def _columns(comparison: Comparison) -> tuple[str, ...]:
    return ("variant", "size", comparison.metric, "difference", "network ms", "pipeline ms", "speed")


def _cells(comparison: Comparison, row: Row) -> tuple[str, ...]:
    if row.size is None or row.network is None or row.pipeline is None:
        return (row.name, *["-"] * (len(_columns(comparison)) - 1))
    return (
        row.name,
        f"{row.size / 1e6:.1f} MB" if row.size >= 1e5 else f"{row.size / 1e3:.1f} kB",
        f"{row.metrics[comparison.metric]:.4f}",
        f"{row.difference:+.4f}",
        f"{row.network.p50:.1f} / {row.network.p95:.1f}",
        f"{row.pipeline.p50:.1f} / {row.pipeline.p95:.1f}",
        f"{row.speed:.2f}",
    )


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
