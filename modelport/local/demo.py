"""The whole life of a model on this machine: what `make demo` runs. Every step is a door that users have as well."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelport.connection import Connection
from modelport.contract import ModelFolder, find_model
from modelport.data import load_heldout
from modelport.errors import BadInput, GateFailed, ModelportError
from modelport.loadtest import LoadReport, Target
from modelport.loadtest import run as run_load_test
from modelport.local.report import (
    DataSection,
    DemoReport,
    Example,
    GateSection,
    MetricsSection,
    Pictures,
    ReleaseSection,
    TrainingSection,
    write,
)
from modelport.local.served import Answer, await_served, look_at_answers
from modelport.project import state_folder
from modelport.promotion import Evidence, gate, promote
from modelport.release import BuiltRelease, Release, build, keep_picture
from modelport.training import Display, TrainingResult, start
from modelport.training.pictures import draw_truth

EXAMPLES = 4
"""Held-out images that the page shows."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoSettings:
    """What a demo does."""

    model: str
    overrides: tuple[str, ...]
    """``KEY=VALUE`` assignments to the model's specification, which make a short training of it."""
    minimum: float | None
    """The gate's minimum for the demo, where few images and epochs do not reach the model's own; None: that one."""
    out: Path
    """Folder of the report."""
    users: int = 2
    load_seconds: float = 15.0


@dataclass
class Demo:
    """What a demo has found out so far."""

    report: DemoReport
    pictures: Pictures = field(default_factory=Pictures)
    hints: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What a person can do with the platform afterwards, and how."""


def run(root: Path, settings: DemoSettings, say: Say) -> Demo:
    """Run every step; ``report.json`` and ``report.html`` are written whether they succeed or not.

    The platform stays up either way.

    Args:
        root: folder that holds ``models/``.
        say: gets a line per step.

    Raises:
        ModelportError: a step failed; the report names it, and holds what was found before.
    """
    demo = Demo(DemoReport(model=settings.model))
    steps = _Steps(demo.report.seconds, say)
    try:
        _run(root, settings, steps, demo)
    except BaseException as error:
        demo.report.failure = {"step": steps.current, "error": str(error) or type(error).__name__}
        raise
    finally:
        write(demo.report, demo.pictures, settings.out, demo.hints)
    return demo


def _run(root: Path, settings: DemoSettings, steps: "_Steps", demo: Demo) -> None:
    from modelport.local.platform import up

    report = demo.report
    folder = find_model(settings.model, root)
    sample = folder.path / "sample"

    with steps.step("platform") as said:
        connection = up(root, say=steps.detail)
        said.append(f"S3, MLflow, Triton, agent and gateway are up; gateway {connection.gateway_url}")
        demo.hints += _hints(folder, connection, settings)

    with steps.step("training") as said, Display() as display:
        # Again: a second demo shows a training, not the memory of one.
        result = start(
            folder, str(sample), overrides=settings.overrides, connection=connection, again=True, progress=display
        )
        report.data = _data(result, folder, root)
        report.training = _training(result, settings.overrides, connection)
        said.append(
            f"{len(result.epochs)} epochs on {report.data.train} images, {_numbers(result.metrics)} on selection"
        )

    with steps.step("release") as said:
        built = build(folder, result, connection, result.spec)
        keep_picture(connection, result, built)
        release = Release.open(built.path, built.digest)
        report.release = _release(built, release)
        said.append(f"{report.release.version} {built.digest[:12]}: three ONNX graphs, equal to torch within tolerance")

    with steps.step("gate") as said:
        evidence = gate(
            folder.name, built.digest, str(sample), connection=connection, minimum=settings.minimum, root=root
        )
        report.gate = _gate(evidence, folder)
        report.metrics = MetricsSection(selection=result.metrics, held_out=evidence.metrics)
        said.append(evidence.summary())
        if settings.minimum is not None:
            said.append(f"{settings.minimum:g} is this demo's minimum, model.yaml's is {folder.spec.gate.minimum:g}")
        if not evidence.passed:
            raise GateFailed(
                f"release {built.digest[:12]} is registered and not promoted: {'; '.join(evidence.reasons)}",
                remedy="what was served before goes on; train longer, such as with --set train.epochs=60, "
                "or run the demo beside it: MODELPORT_STATE=ANOTHER_FOLDER make demo",
            )

    with steps.step("promotion") as said:
        changed = promote(
            folder.name,
            built.digest,
            connection=connection,
            heldout=str(sample),
            minimum=settings.minimum,
            why="modelport demo",
            root=root,
        )
        said.append(f"{changed.digest[:12]} is the desired version; before: {(changed.before or 'none')[:12]}")

    with steps.step("serving") as said:
        triton_name = await_served(folder.name, built.digest, connection)
        heldout = load_heldout(str(sample), folder.spec, store=None, cache=state_folder(root) / "cache")
        report.serving, answers = look_at_answers(
            folder.name, release, triton_name, heldout, sample, connection, EXAMPLES
        )
        demo.pictures = replace(demo.pictures, examples=_examples(answers, evidence, folder))
        said.append(f"{triton_name} answers over the gateway; {report.serving.sameness('the graphs in process')}")

    with steps.step("load") as said:
        place = settings.out / "load"
        report.load = run_load_test(
            folder.name,
            connection,
            Target.GATEWAY,
            settings.users,
            settings.load_seconds,
            place,
            releases=[built.digest],
        )
        demo.pictures = replace(demo.pictures, latency=(place / "latency.png").read_bytes())
        said.append(f"{report.load.requests} requests by {settings.users} users, {report.load.failed} failed")
        _check_load(report.load, place)


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass
class _Steps:
    """Times the steps, and says a line when one ends."""

    seconds: dict[str, float]
    say: Say
    current: str = "start"
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, name: str) -> Generator[list[str]]:
        """Run a step; its block appends what is to be said of it."""
        self.current = name
        begin = time.monotonic()
        said: list[str] = []
        failed = True
        try:
            yield said
            failed = False
        finally:
            now = time.monotonic()
            self.seconds[name] = round(now - begin, 2)
            self.seconds["total"] = round(now - self.began, 2)
            text = "; ".join([*said, "FAILED"] if failed else said)
            self.say(f"{now - self.began:6.1f} s  {name:<10} {text}  ({now - begin:.1f} s)")

    def detail(self, text: str) -> None:
        """Say something within a step."""
        self.say(f"{'':10}{text}")


def _examples(answers: list[Answer], evidence: Evidence, folder: ModelFolder) -> tuple[Example, ...]:
    scores = {image.id: image.scores for image in evidence.images}
    examples: list[Example] = []
    for answer in answers:
        if answer.shown is not None:
            image, truth = answer.heldout.image(answer.index), answer.heldout.target(answer.index)
            drawn = draw_truth(folder.spec.task, image, truth, folder.spec.classes)
            examples.append(Example(answer.id, image, drawn, answer.shown, scores.get(answer.id, {})))
    return tuple(examples)


def _check_load(load: LoadReport, place: Path) -> None:
    if not load.passed:
        reasons = "; ".join(f"{times} times: {reason}" for reason, times in load.failures.items())
        raise ModelportError(
            f"{load.failed} of {load.requests} requests failed: {reasons or 'none was sent'}",
            file=place / "requests.csv",
        )


# --- sections of the report -------------------------------------------------------------------------------------------


def _data(result: TrainingResult, folder: ModelFolder, root: Path) -> DataSection:
    sample = folder.path / "sample"
    attribution = sample / "ATTRIBUTION.md"
    counts = result.dataset.describe()
    if not counts["heldout"]:
        raise BadInput("has no held-out images", file=sample / "validation")
    return DataSection(
        path=str(sample.relative_to(root)),
        digest=result.data_digest,
        train=counts["train"],
        selection=counts["selection"],
        held_out=counts["heldout"],
        attribution=attribution.read_text() if attribution.is_file() else "",
    )


def _training(result: TrainingResult, overrides: tuple[str, ...], connection: Connection) -> TrainingSection:
    return TrainingSection(
        run=result.run,
        run_key=result.run_key,
        mlflow_run_id=result.mlflow_run_id,
        mlflow_url=connection.tracking_uri,
        mlflow_user=connection.tracking_username or "",
        resumed=result.resumed,
        seconds=round(result.seconds, 2),
        overrides=overrides,
        select_metric=result.spec.train.select.metric,
        best_epoch=result.best_epoch + 1,
        epochs=tuple(epoch["metrics"] for epoch in result.epochs),
    )


def _release(built: BuiltRelease, release: Release) -> ReleaseSection:
    files = release.manifest.files
    return ReleaseSection(
        digest=built.digest,
        version=f"v{built.version}",
        files=len(files),
        bytes=sum(entry.size for entry in files.values()),
        code_digest=release.manifest.code_digest,
    )


def _gate(evidence: Evidence, folder: ModelFolder) -> GateSection:
    own = folder.spec.gate.minimum
    return GateSection(
        metric=evidence.rules.metric,
        value=evidence.value,
        interval=(evidence.interval.low, evidence.interval.high),
        minimum=evidence.rules.minimum,
        minimum_of_model=own,
        overridden=evidence.rules.minimum != own,
        champion=None if evidence.champion is None else evidence.champion.value,
        passed=evidence.passed,
        reasons=evidence.reasons,
        evidence=evidence.key,
    )


def _hints(folder: ModelFolder, connection: Connection, settings: DemoSettings) -> list[tuple[str, str]]:
    image = f"models/{folder.name}/sample/golden/{folder.golden[0].name}" if folder.golden else "IMAGE.jpg"
    url = f"{connection.gateway_url}/v1/models/{folder.name}/predict"
    secrets = connection.default_path()
    return [
        ("report", f"{settings.out}/report.html"),
        ("MLflow", f"{connection.tracking_uri}  user {connection.tracking_username}"),
        ("ask it", f'curl -H "X-API-Key: $KEY" -F image=@{image} {url}'),
        ("secrets", f"{secrets}: tracking_password for MLflow, gateway_api_key for $KEY"),
        ("stop it", "make down (or `modelport local down`); the data stays for the next time"),
    ]


def _numbers(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
