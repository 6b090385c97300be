"""The gate's process: ``python -I -m modelport.promotion.gate_process``, a job on stdin, findings on stdout, in JSON.

It sees a release's files and the held-out split. It decides nothing: whoever started it holds the findings against the
rules.
"""

import sys

from modelport.promotion.isolation import refuse_imports, refused_modules

# First of all: nothing that is imported from here on can bring a refused module along.
refuse_imports()

import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from importlib.metadata import version  # noqa: E402

import numpy as np  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from modelport.connection import Role  # noqa: E402
from modelport.contract import ModelSpec  # noqa: E402
from modelport.data import HeldOut, load_heldout  # noqa: E402
from modelport.errors import BadInput, GateFailed, ModelportError  # noqa: E402
from modelport.imaging import decode  # noqa: E402
from modelport.objects import ObjectStore  # noqa: E402
from modelport.promotion.evidence import Champion, ImageScore, Interval, LeakCheck  # noqa: E402
from modelport.promotion.gate_job import Failure, Findings, Job  # noqa: E402
from modelport.promotion.metrics import TaskMetrics, metrics_of  # noqa: E402
from modelport.release import FP32, TRAINING_DATA_FILE, Release, Runtime, compare  # noqa: E402

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
    runtime = Runtime(release, threads=_threads())
    problems = [
        f"{golden.name}: {problem}"
        for golden in release.golden()
        for problem in compare(
            runtime.predict(decode(golden.data)), golden.expected, release.manifest.tolerances.get(FP32, {})
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
        image, truth = heldout.image(index), heldout.target(index)
        try:
            outputs = runtime.predict(image)
            scores.append(ImageScore(id=name, scores=metrics.score(outputs, truth, len(spec.classes))))
        except ModelportError:
            raise
        except Exception as error:
            # onnxruntime's exceptions share no base class; whatever it is, this release cannot answer this image.
            raise GateFailed(f"the release fails on held-out image {name}: {error}") from error
    return scores


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
    scores = _scores(Runtime(release, threads=_threads()), heldout, metrics, job.spec)
    value = metrics.summarize([row.scores for row in scores])[job.spec.gate.metric]
    return Champion(digest=release.digest, value=value)


def _threads() -> int:
    return min(4, os.cpu_count() or 1)


def main() -> int:
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


if __name__ == "__main__":
    sys.exit(main())
