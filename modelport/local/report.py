"""The demo's report: one JSON for machines, one page with pictures for people. Nothing is measured here."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from modelport.imaging import Pixels, encode_png
from modelport.loadtest import LoadReport


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSection(_Section):
    """What was learned from."""

    path: str
    digest: str = Field(description="Digest of the dataset's manifest.")
    train: int = Field(description="Images that weights were fitted to.")
    selection: int = Field(description="Images, carved from the training split, that chose the epoch.")
    held_out: int = Field(description="Images that only the gate saw.")
    attribution: str = Field(description="Where the images come from, and their licence.")


class TrainingSection(_Section):
    """How it was trained."""

    run: str
    run_key: str
    mlflow_run_id: str
    mlflow_url: str
    mlflow_user: str
    resumed: bool = Field(description="Whether an interrupted run was continued.")
    seconds: float
    overrides: tuple[str, ...] = Field(description="What was changed against model.yaml.")
    select_metric: str
    best_epoch: int = Field(description="The one that was released, from 1.")
    epochs: tuple[dict[str, float], ...] = Field(description="Metrics of every epoch, in order.")


class MetricsSection(_Section):
    """How good it is; training's own number, and the promoter's."""

    selection: dict[str, float] = Field(description="Training's metrics of the best epoch, on the selection split.")
    held_out: dict[str, float] = Field(description="The platform's metrics on the held-out split, by the gate.")


class GateSection(_Section):
    """What decided whether it may be served."""

    metric: str
    value: float
    interval: tuple[float, float] = Field(description="Bootstrap confidence interval of the value.")
    minimum: float = Field(description="The minimum that this demo used.")
    minimum_of_model: float = Field(description="What model.yaml asks for; where they differ the demo overrode it.")
    overridden: bool
    champion: float | None = Field(description="The value of what was served before, on the same images.")
    passed: bool
    reasons: tuple[str, ...] = Field(description="Why it did not pass.")
    evidence: str = Field(description="Key of the evidence in the object store.")


class ReleaseSection(_Section):
    """What was released."""

    digest: str
    version: str = Field(description="Version in MLflow's registry, a local convenience; the digest is the version.")
    files: int
    bytes: int
    code_digest: str


class ServingSection(_Section):
    """Where it is served, and one answer looked at closely."""

    gateway: str
    triton_http: str
    triton_grpc: str
    triton_name: str
    answered_by: str = Field(description="Digest that the gateway's answer named.")
    images: int = Field(description="Images whose answers were held against the same graphs in process.")
    differing_pixels: int | None = Field(default=None, description="Of a segmentation's masks.")
    pixels: int | None = Field(default=None, description="Of all these masks.")
    largest_difference: float | None = Field(default=None, description="Of any score or probability.")

    def sameness(self, graphs: str) -> str:
        """How near the answers were to those of the same graphs, which are called `graphs`."""
        if self.largest_difference is None:
            return f"{self.differing_pixels} of {self.pixels} pixels differ from {graphs}"
        return f"the largest difference from {graphs} is {self.largest_difference:.2g}"

    @property
    def noun(self) -> str:
        """What an answer is called."""
        return "masks" if self.largest_difference is None else "answers"


class DemoReport(BaseModel):
    """Everything that the demo found out. Sections that it did not reach are None; `failure` then says why."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(exclude=True)
    data: DataSection | None = None
    training: TrainingSection | None = None
    metrics: MetricsSection | None = None
    gate: GateSection | None = None
    release: ReleaseSection | None = None
    serving: ServingSection | None = None
    load: LoadReport | None = None
    seconds: dict[str, float] = Field(default_factory=dict[str, float])
    failure: dict[str, str] | None = Field(default=None, description="step and error; absent when all went well.")

    def to_json(self) -> str:
        """Text of report.json."""
        return self.model_dump_json(indent=2, exclude={"failure"} if self.failure is None else None) + "\n"

    def rows(self) -> list[tuple[str, str]]:
        """The table at the end of the demo: what, and what was found."""
        rows: list[tuple[str, str]] = []
        if data := self.data:
            counts = f"{data.train} to train, {data.selection} to select, {data.held_out} held out"
            rows.append(("data", f"{data.path}: {counts}"))
        if training := self.training:
            curve = [epoch[training.select_metric] for epoch in training.epochs if training.select_metric in epoch]
            rows.append(("training", f"{len(curve)} epochs in {training.seconds:.0f} s, run {training.run}"))
            rows.append(("curve", f"{training.select_metric} by epoch  {sparkline(curve)}  {_first_and_last(curve)}"))
        if metrics := self.metrics:
            rows.append(("held out", ", ".join(f"{name} {value:.3f}" for name, value in metrics.held_out.items())))
        if gate := self.gate:
            verdict = "passed" if gate.passed else "FAILED"
            minimum = f"minimum {gate.minimum:g}{self._override()}"
            rows.append(("gate", f"{verdict}: {gate.metric} {gate.value:.3f}, {minimum}"))
            if gate.overridden:
                rows.append(("mind", "a short training on a few images shows the way; this is not a good model"))
        if release := self.release:
            rows.append(("release", f"{release.version}, {release.files} files, {release.bytes / 1e6:.1f} MB"))
            rows.append(("digest", release.digest))
        if serving := self.serving:
            rows.append(("served at", f"{serving.gateway}/v1/models/{self.model}/predict"))
            rows.append(("in Triton", f"{serving.triton_name}, HTTP {serving.triton_http}, gRPC {serving.triton_grpc}"))
            same = serving.sameness("the same graphs in process")
            rows.append(("answers", f"{serving.images} {serving.noun}: {same}"))
        if load := self.load:
            rows.append(("latency", f"p50 {_ms(load.p50_ms)}, p99 {_ms(load.p99_ms)}"))
            rate = f"{load.requests_per_s:.1f} requests/s by {load.users} users"
            rows.append(("load", f"{rate}, {load.requests} requests, {load.failed} failed"))
        rows.append(("took", f"{self.seconds.get('total', sum(self.seconds.values())):.0f} s"))
        return rows

    def _override(self) -> str:
        gate = self.gate
        if gate is None or not gate.overridden:
            return ""
        return f" (of this demo; the model's own is {gate.minimum_of_model:g})"


@dataclass(frozen=True)
class Example:
    """A held-out image, and the same with its truth and with the gateway's answer drawn into it."""

    name: str
    image: Pixels
    truth: Pixels
    answer: Pixels
    scores: dict[str, float]
    """The gate's, of this image."""


@dataclass(frozen=True)
class Pictures:
    """What the page shows beside the numbers."""

    examples: tuple[Example, ...] = ()
    latency: bytes | None = None


@dataclass(frozen=True)
class _Tile:
    caption: str
    source: str


@dataclass(frozen=True)
class _Row:
    title: str
    tiles: tuple[_Tile, ...] = field(default=())


def write(report: DemoReport, pictures: Pictures, out: Path, hints: Sequence[tuple[str, str]] = ()) -> None:
    """Write ``report.json`` and ``report.html`` into `out`; `hints` are (what, how) for the page's end."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(report.to_json())
    (out / "report.html").write_text(page(report, pictures, hints))


def page(report: DemoReport, pictures: Pictures, hints: Sequence[tuple[str, str]] = ()) -> str:
    """The report as one HTML file that needs no other."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("modelport.local", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    examples = [_example_row(example) for example in pictures.examples]
    return environment.get_template("report.html.jinja").render(
        report=report,
        curve=_png(curve_plot(report.training)) if report.training else None,
        latency=_png(pictures.latency) if pictures.latency else None,
        examples=examples,
        hints=hints,
        steps=[(name, value) for name, value in report.seconds.items() if name != "total"],
        total=report.seconds.get("total", sum(report.seconds.values())),
    )


def curve_plot(training: TrainingSection) -> bytes:
    """PNG: loss and the metric that chose the epoch, by epoch."""
    from matplotlib.figure import Figure

    metric = training.select_metric
    losses = [name for name in (training.epochs[0] if training.epochs else {}) if "loss" in name]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes: Any = figure.subplots(1, 2 if losses else 1, squeeze=False)[0]
    panels = [(axes[0], [metric], "on the selection split", "#2f6f9f")]
    if losses:
        panels.append((axes[1], losses, "", "#b26a2c"))
    for panel, names, where, color in panels:
        for name in names:
            points = [(n, epoch[name]) for n, epoch in enumerate(training.epochs, 1) if name in epoch]
            panel.plot([n for n, _ in points], [y for _, y in points], "o-", markersize=3.5, linewidth=1.6, color=color)
        panel.set_xlabel("epoch")
        panel.set_title(f"{', '.join(names)} {where}", loc="left", fontsize=10, color="#44505c")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#e3e7eb", linewidth=0.8)
        panel.set_ylim(bottom=0)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.tick_params(colors="#44505c", labelsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def sparkline(values: Sequence[float]) -> str:
    """Values as a line of blocks, for a terminal; at most 40 of them."""
    if not values:
        return ""
    step = max(1, -(-len(values) // 40))
    shown = values[::step]
    low, high = min(shown), max(shown)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[round((value - low) / (high - low) * 7) if high > low else 3] for value in shown)


def _first_and_last(curve: Sequence[float]) -> str:
    return f"first {curve[0]:.3f}, last {curve[-1]:.3f}" if curve else ""


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.0f} ms"


def _example_row(example: Example) -> _Row:
    return _Row(
        ", ".join([example.name, *(f"{name} {value:.2f}" for name, value in example.scores.items())]),
        (
            _Tile("image", _png(encode_png(example.image))),
            _Tile("truth", _png(encode_png(example.truth))),
            _Tile("answer", _png(encode_png(example.answer))),
        ),
    )


def _png(data: bytes) -> str:
    return "data:image/png;base64," + b64encode(data).decode()
