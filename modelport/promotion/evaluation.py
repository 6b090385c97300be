"""What the gate's process does: score a release's graphs, and the champion's, on the held-out split.

It sees a release's files and the held-out split. It decides nothing: whoever started it holds the findings against the
rules.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
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
from modelport.promotion.evidence import Champion, ImageScore, Interval, LeakCheck
from modelport.promotion.gate_job import Failure, Findings, Job
from modelport.promotion.isolation import refused_modules
from modelport.promotion.metrics import TaskMetrics, metrics_of
from modelport.release import FP32, TRAINING_DATA_FILE, Release, Runtime, compare

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0


def evaluate(job: Job) -> Findings:
    """Score a release, and the champion beside it, on the held-out split.

    Raises:
        BadInput: the release or the split is damaged, they do not belong together, or images of it were trained on.
        GateFailed: the release fails on an image.
    """
    spec = job.spec
    metrics = metrics_of(spec.task)
    release = Release.open(job.release, job.digest)
    _check_belongs(release, spec)
    store = None if job.connection is None else ObjectStore.connect(job.connection, Role.PROMOTER)
    heldout = load_heldout(job.heldout, spec, store=store, cache=job.cache)
    hashes = {heldout.entry(index).sha256: heldout.entry(index).path for index in range(len(heldout))}
    trained = _trained_on(release)
    shared = sorted(set(hashes) & trained)
    if shared:
        raise BadInput(
            f"{len(shared)} of {len(hashes)} held-out images were trained on by release {job.digest[:12]}, "
            f"the first is {hashes[shared[0]]}",
            file=job.heldout,
            remedy="gate it on images that it never saw, or train anew without these",
        )
    runtime = _load(release)
    problems = [
        f"{golden.name}: {problem}"
        for golden in release.golden()
        for problem in compare(
            _predict(runtime, decode(golden.data), f"golden image {golden.name}"),
            golden.expected,
            release.manifest.tolerances.get(FP32, {}),
        )
    ]
    scores = _scores(runtime, heldout, metrics, spec)
    return Findings(
        heldout_digest=heldout.digest,
        metrics=metrics.summarize([row.scores for row in scores]),
        interval=_interval(metrics, scores, spec.gate.metric),
        champion=_champion(job, heldout, metrics, set(hashes)),
        golden_problems=tuple(problems),
        leak_check=LeakCheck(heldout_images=len(hashes), training_images=len(trained), shared=0),
        versions={
            **{name: version(name) for name in ("modelport", "numpy", "onnxruntime", "pillow")},
            "python": platform.python_version(),
        },
        images=tuple(scores),
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


def _trained_on(release: Release) -> set[str]:
    try:
        images = json.loads(release.read(TRAINING_DATA_FILE))["images"]
        found = {str(image) for image in images}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"does not say what was trained on: {error}", file=TRAINING_DATA_FILE) from None
    if not found:
        raise BadInput("names no image: it cannot be told whether held-out images leaked", file=TRAINING_DATA_FILE)
    return found


def _scores(runtime: Runtime, heldout: HeldOut, metrics: TaskMetrics, spec: ModelSpec) -> list[ImageScore]:
    scores: list[ImageScore] = []
    for index, name in enumerate(heldout.ids):
        outputs = _predict(runtime, heldout.image(index), f"held-out image {name}")
        try:
            scored = metrics.score(outputs, heldout.target(index), len(spec.classes))
        except ValueError as error:
            raise GateFailed(f"the release answers held-out image {name} wrongly: {error}") from None
        scores.append(ImageScore(id=name, scores=scored))
    return scores


def _load(release: Release) -> Runtime:
    try:
        return Runtime(release, threads=min(4, os.cpu_count() or 1))
    except BadInput:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise GateFailed(f"the graphs of release {release.digest[:12]} cannot be loaded: {error}") from error


def _predict(runtime: Runtime, image: NDArray[np.uint8], what: str) -> dict[str, NDArray[Any]]:
    try:
        return runtime.predict(image)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise GateFailed(f"the release fails on {what}: {error}") from error


def _interval(metrics: TaskMetrics, scores: Sequence[ImageScore], metric: str) -> Interval:
    draw = np.random.default_rng(SEED)
    rows = [row.scores for row in scores]
    means = [
        metrics.summarize([rows[index] for index in draw.integers(0, len(rows), len(rows))])[metric]
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high), level=LEVEL, resamples=RESAMPLES, seed=SEED)


def _champion(job: Job, heldout: HeldOut, metrics: TaskMetrics, hashes: set[str]) -> Champion | None:
    if job.champion is None or job.champion_digest is None:
        return None
    release = Release.open(job.champion, job.champion_digest)
    try:
        _check_belongs(release, job.spec)
    except BadInput as error:
        return Champion(digest=release.digest, value=None, note=f"not compared: {error.key} {error.message}")
    leaked = len(hashes & _trained_on(release))
    if leaked:
        # Its value would be too good, and keep better releases out.
        return Champion(
            digest=release.digest, value=None, note=f"not compared: it was trained on {leaked} of the images"
        )
    scores = _scores(_load(release), heldout, metrics, job.spec)
    value = metrics.summarize([row.scores for row in scores])[job.spec.gate.metric]
    return Champion(digest=release.digest, value=value)


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
