"""What the gate's process does: score a release's graphs, and the champion's, on the held-out split.

It sees a release's files and the held-out split. It decides nothing: whoever started it holds the findings against the
rules.
"""

import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from modelport.connection import Role
from modelport.contract import ModelSpec
from modelport.data import HeldOut, load_heldout
from modelport.errors import BadInput, GateFailed, ModelportError
from modelport.imaging import decode
from modelport.objects import ObjectStore
from modelport.promotion.as_served import check_as_served, check_graphs
from modelport.promotion.evidence import Champion, ImageScore, Interval, LeakCheck
from modelport.promotion.gate_job import Failure, Findings, Job
from modelport.promotion.isolation import refused_modules
from modelport.promotion.metrics import Sample, TaskMetrics, metrics_of
from modelport.release import FP32, Release, Runtime, compare

LEVEL = 0.95
SEED = 0


@dataclass(frozen=True)
class _Judged:
    """What one precision of a release gave."""

    samples: Sequence[Sample]
    metrics: dict[str, float]
    golden_problems: Sequence[str]


def evaluate(job: Job) -> Findings:
    """Score a release in every precision that it carries, and the champion beside it, on the held-out split.

    Raises:
        BadInput: the release or the split is damaged, they do not belong together, images of it were trained on, or
            the split does not define the gate's metric.
        GateFailed: the release fails on an image, or would be served otherwise than it is measured.
    """
    spec = job.spec
    metrics = metrics_of(spec.task)
    release = Release.open(job.release, job.digest)
    _check_belongs(release, spec)
    check_as_served(release)
    store = None if job.connection is None else ObjectStore.connect(job.connection, Role.PROMOTER)
    heldout = load_heldout(job.heldout, spec, store=store, cache=job.cache)
    hashes = {heldout.entry(index).sha256: heldout.entry(index).path for index in range(len(heldout))}
    trained = release.trained_on()
    shared = sorted(set(hashes) & trained)
    if shared:
        raise BadInput(
            f"{len(shared)} of {len(hashes)} held-out images were trained on by release {job.digest[:12]}, "
            f"the first is {hashes[shared[0]]}",
            file=job.heldout,
            remedy="gate it on images that it never saw, or train anew without these",
        )
    judged = {
        precision: _judge(release, precision, heldout, metrics, spec) for precision in release.manifest.precisions
    }
    first = judged[FP32]
    try:
        metrics.value(first.samples, spec.gate.metric)
    except ValueError as error:
        raise BadInput(
            f"{spec.gate.metric} cannot be computed on the held-out split: {error}",
            file=job.heldout,
            key="gate.metric",
            remedy="hold out images that show it, or gate by another metric",
        ) from None
    libraries = ("modelport", "numpy", "onnxruntime", "pillow", *metrics.LIBRARIES)
    return Findings(
        heldout_digest=heldout.digest,
        metrics=first.metrics,
        variants={precision: found.metrics for precision, found in judged.items() if precision != FP32},
        interval=_interval(metrics, first.samples, spec.gate.metric),
        champion=_champion(job, heldout, metrics, set(hashes)),
        golden_problems=tuple(problem for found in judged.values() for problem in found.golden_problems),
        leak_check=LeakCheck(heldout_images=len(hashes), training_images=len(trained), shared=0),
        versions={**{name: version(name) for name in libraries}, "python": platform.python_version()},
        truth=_truth(heldout, metrics, spec),
        images=tuple(
            ImageScore(id=name, scores=metrics.per_image(sample))
            for name, sample in zip(heldout.ids, first.samples, strict=True)
        ),
    )


def _check_belongs(release: Release, spec: ModelSpec) -> None:
    manifest = release.manifest
    for key, found, wanted in (
        ("model", manifest.model, spec.name),
        ("task", manifest.task, spec.task),
        ("classes", [label.name for label in manifest.classes], [label.name for label in spec.classes]),
    ):
        if found != wanted:
            raise BadInput(
                f"is {found!s} in release {release.digest[:12]}, but {wanted!s} in the promoter's model.yaml",
                key=key,
                remedy="gate it in a checkout that agrees with it",
            )


def _judge(release: Release, precision: str, heldout: HeldOut, metrics: TaskMetrics, spec: ModelSpec) -> _Judged:
    runtime = _load(release, precision)
    check_graphs(release, runtime)
    which = "" if precision == FP32 else f"{precision}: "
    problems = [
        f"{which}{golden.name}: {problem}"
        for golden in release.golden()
        for problem in compare(
            _predict(runtime, decode(golden.data), f"{which}golden image {golden.name}"),
            golden.expected,
            release.manifest.tolerances.get(precision, {}),
        )
    ]
    samples = _measure(runtime, which, heldout, metrics, spec)
    return _Judged(samples, metrics.summarize(samples), problems)


def _measure(runtime: Runtime, which: str, heldout: HeldOut, metrics: TaskMetrics, spec: ModelSpec) -> list[Sample]:
    samples: list[Sample] = []
    for index, name in enumerate(heldout.ids):
        outputs = _predict(runtime, heldout.image(index), f"{which}held-out image {name}")
        try:
            samples.append(metrics.measure(outputs, heldout.target(index), len(spec.classes)))
        except ValueError as error:
            raise GateFailed(f"the release answers {which}held-out image {name} wrongly: {error}") from None
    return samples


def _truth(heldout: HeldOut, metrics: TaskMetrics, spec: ModelSpec) -> dict[str, int]:
    """How many held-out examples each class has."""
    counts = Counter(label for index in range(len(heldout)) for label in metrics.shown(heldout.target(index)))
    return {label.name: counts[number] for number, label in enumerate(spec.classes)}


def _load(release: Release, precision: str) -> Runtime:
    try:
        return Runtime(release, threads=min(4, os.cpu_count() or 1), precision=precision)
    except BadInput:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class
        which = "" if precision == FP32 else f" in {precision}"
        raise GateFailed(f"the graphs of release {release.digest[:12]}{which} cannot be loaded: {error}") from error


def _predict(runtime: Runtime, image: NDArray[np.uint8], what: str) -> dict[str, NDArray[Any]]:
    try:
        return runtime.predict(image)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise GateFailed(f"the release fails on {what}: {error}") from error


def _interval(metrics: TaskMetrics, samples: Sequence[Sample], metric: str) -> Interval:
    draw = np.random.default_rng(SEED)
    values: list[float] = []
    for _ in range(metrics.RESAMPLES):
        try:
            values.append(metrics.value([samples[i] for i in draw.integers(0, len(samples), len(samples))], metric))
        except ValueError:
            continue  # these images do not define the metric
    # With hardly an image to draw from it may be that none did.
    low, high = np.quantile(values or [metrics.value(samples, metric)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high), level=LEVEL, resamples=len(values), seed=SEED)


def _champion(job: Job, heldout: HeldOut, metrics: TaskMetrics, hashes: set[str]) -> Champion | None:
    if job.champion is None or job.champion_digest is None:
        return None
    release = Release.open(job.champion, job.champion_digest)
    try:
        _check_belongs(release, job.spec)
    except BadInput as error:
        return Champion(digest=release.digest, value=None, note=f"not compared: {error.key} {error.message}")
    leaked = len(hashes & release.trained_on())
    if leaked:
        # Its value would be too good, and keep better releases out.
        return Champion(
            digest=release.digest, value=None, note=f"not compared: it was trained on {leaked} of the images"
        )
    # As it is served, as far as the promoter's checkout knows: a stack may say otherwise.
    wanted = job.spec.serve.precision
    precision = wanted if wanted in release.manifest.precisions else FP32
    samples = _measure(_load(release, precision), "", heldout, metrics, job.spec)
    return Champion(digest=release.digest, value=metrics.value(samples, job.spec.gate.metric), precision=precision)


def run() -> int:
    """Read a job, write findings or a failure; the exit code says which."""
    # Findings are the only thing on stdout, whatever libraries print.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        findings = evaluate(Job.model_validate_json(sys.stdin.buffer.read()))
        held = refused_modules()
        if held:
            raise GateFailed(f"the gate's process came to hold {', '.join(held)}")
        answer: BaseModel = findings
    except ModelportError as error:
        answer = Failure(
            kind=type(error).__name__, message=error.message, file=error.file, key=error.key, remedy=error.remedy
        )
    with output:
        output.write(answer.model_dump_json())
    return 0 if isinstance(answer, Findings) else 1
