"""What the gate finds, for every task and precision: real graphs and data sets on disk, without a platform."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from modelport.contract import Task
from modelport.errors import BadInput, GateFailed
from modelport.promotion.evaluation import evaluate
from modelport.promotion.gate_job import Findings, Job
from modelport.promotion.metrics import metrics_of
from modelport.release import Release, Runtime, Tolerance
from tests.promotion import tiny_tasks as tiny
from tests.serving import tiny_tasks

REDS = (0.1, 0.2, 0.3, 0.4, 0.47, 0.6, 0.7, 0.8, 0.45, 0.9)
LABELS = (0, 0, 0, 0, 0, 1, 1, 1, 1, 1)
"""Of REDS; the ninth looks like the other class."""
WORSE = 0.65
"""A threshold by which 0.6 is wrong as well."""


def found(
    tmp_path: Path, release: Release, data: Path, task: Task, *, champion: Release | None = None, **options: str
) -> Findings:
    return evaluate(
        Job(
            release=release.folder,
            digest=release.digest,
            champion=champion and champion.folder,
            champion_digest=champion and champion.digest,
            heldout=str(data),
            spec=tiny.spec(task, **options),
            connection=None,
            cache=tmp_path / "cache",
        )
    )


def test_classification(tmp_path: Path) -> None:
    release = tiny.write(tmp_path, Task.CLASSIFY)
    data = tiny.write_data(tmp_path / "data", Task.CLASSIFY, REDS, LABELS)
    findings = found(tmp_path, release, data, Task.CLASSIFY)
    assert findings.golden_problems == ()
    assert findings.truth == {"dark": 5, "red": 5}
    runtime = Runtime(release)
    probabilities = np.array([runtime.predict(tiny.image(red, seed))["probabilities"] for seed, red in enumerate(REDS)])
    confidence = probabilities.max(axis=1)
    assert findings.metrics["accuracy"] == 0.9
    assert findings.metrics["balanced_accuracy"] == pytest.approx((5 / 5 + 4 / 5) / 2)
    assert findings.metrics["f1"] == pytest.approx((10 / 11 + 8 / 9) / 2)
    assert findings.metrics["auroc"] == pytest.approx(float(roc_auc_score(LABELS, probabilities[:, 1])))
    assert 0 < findings.metrics["calibration_error"] < 0.2
    by_id = {row.id: row.scores for row in findings.images}
    assert by_id["red/8"]["correct"] == 0.0
    assert by_id["red/8"]["confidence"] == pytest.approx(confidence[8])
    assert sum(scores["correct"] for scores in by_id.values()) == 9
    assert findings.interval.low < 0.9 <= findings.interval.high
    assert "scikit-learn" in findings.versions


def test_detection(tmp_path: Path) -> None:
    release = tiny.write(tmp_path, Task.DETECT)
    # The last image has no object; its box is a false positive, though not the surest one.
    data = tiny.write_data(tmp_path / "data", Task.DETECT, (0.1, 0.2, 0.8, 0.9, 0.6), (0, 0, 1, 1, None))
    findings = found(tmp_path, release, data, Task.DETECT)
    assert findings.golden_problems == ()
    assert findings.metrics == pytest.approx({"map50": 1.0, "map50_95": 1.0})
    assert findings.truth == {"dark": 2, "red": 2}
    assert {row.id: row.scores for row in findings.images}["4"] == {"objects": 0, "found": 0, "false_positives": 1}
    # With more resamples skipped than drawn there would be nothing to say; here one in 3125 has no object.
    assert 400 < findings.interval.resamples <= 500
    assert "pycocotools" in findings.versions

    wrong = tiny.write(tmp_path, Task.DETECT, threshold=0.15)
    assert found(tmp_path, wrong, data, Task.DETECT).metrics["map50"] < 0.9


def test_a_class_that_is_not_held_out_is_counted_as_such(tmp_path: Path) -> None:
    release = tiny.write(tmp_path, Task.DETECT)
    data = tiny.write_data(tmp_path / "data", Task.DETECT, (0.1, 0.2, 0.3), (0, 0, None))
    findings = found(tmp_path, release, data, Task.DETECT)
    assert findings.metrics["map50"] == 1.0, "the mean leaves the class out"
    assert findings.truth == {"dark": 2, "red": 0}


def test_a_segmentation_counts_the_images_that_show_a_class() -> None:
    mask = np.array([[0, 0, 2], [0, 2, 2]], np.uint8)
    assert list(metrics_of(Task.SEGMENT).shown(mask)) == [0, 2]


def test_shuffled_labels_are_worth_nothing(tmp_path: Path) -> None:
    release = tiny.write(tmp_path, Task.DETECT)
    data = tiny.write_data(tmp_path / "data", Task.DETECT, (0.1, 0.2, 0.8, 0.9), (1, 1, 0, 0))
    assert found(tmp_path, release, data, Task.DETECT).metrics["map50"] == 0.0


def test_split_that_does_not_define_the_metric(tmp_path: Path) -> None:
    release = tiny.write(tmp_path, Task.DETECT)
    data = tiny.write_data(tmp_path / "data", Task.DETECT, (0.1, 0.9), (None, None))
    with pytest.raises(BadInput, match=r"gate\.metric: map50 cannot be computed on the held-out split: none of its im"):
        found(tmp_path, release, data, Task.DETECT)


def test_every_precision_is_measured_and_replayed(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data", Task.CLASSIFY, REDS, LABELS)
    int8 = tiny.network(Task.CLASSIFY, threshold=WORSE)
    findings = found(tmp_path, tiny.write(tmp_path, Task.CLASSIFY, int8=int8), data, Task.CLASSIFY)
    assert findings.metrics["accuracy"] == 0.9
    assert findings.variants["int8"]["accuracy"] == 0.8
    assert set(findings.variants) == {"int8"}
    assert findings.golden_problems == (), "int8 has a tolerance of its own"

    tolerances = {"int8": {"probabilities": Tolerance(absolute=0.001)}}
    strict = tiny.write(tmp_path, Task.CLASSIFY, int8=int8, tolerances=tolerances)
    (problem,) = found(tmp_path, strict, data, Task.CLASSIFY).golden_problems
    assert problem.startswith("int8: ramp.png: probabilities differs by")


def test_precision_that_cannot_answer(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data", Task.CLASSIFY, REDS, LABELS)
    with pytest.raises(GateFailed, match=r"the graphs of release .* in int8 cannot be loaded"):
        found(tmp_path, tiny.write(tmp_path, Task.CLASSIFY, int8=b"no graph"), data, Task.CLASSIFY)
    diverged = tiny.network(Task.CLASSIFY, sharpness=float("nan"))
    with pytest.raises(GateFailed, match=r"answers int8: held-out image dark/0 wrongly: a probability is not a finite"):
        found(tmp_path, tiny.write(tmp_path, Task.CLASSIFY, int8=diverged), data, Task.CLASSIFY)


def with_a_fourth_step(model: str) -> dict[str, bytes]:
    """Configurations that a server would load: what the network gives is changed before it is looked at."""
    own = tiny_tasks.configs(Task.CLASSIFY, model)[model]
    before, last, after = own.partition('step { model_name: "postprocess"')
    more = 'step { model_name: "more" input_map { key: "x" value: "logits" } output_map { key: "y" value: "others" } }'
    ensemble = f"{before}{more} {last}" + after.replace('value: "logits"', 'value: "others"')
    config = (
        'backend: "onnxruntime"\nmax_batch_size: 0\ninput { name: "x" data_type: TYPE_FP32 dims: [-1, 2] }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [-1, 2] }\n'
    )
    files = {f"triton/{model}/config.pbtxt": ensemble, "triton/more/config.pbtxt": config}
    return {path: text.encode() for path, text in files.items()}


@pytest.mark.parametrize(
    ("task", "options", "told"),
    [
        (
            Task.CLASSIFY,
            {"changes": with_a_fourth_step("tiny_classify")},
            "triton/more/config.pbtxt: is no step of task classify",
        ),
        (
            Task.CLASSIFY,
            {"changes": {"network/model.onnx": tiny.network(Task.CLASSIFY, also_image=True)}},
            "the graph of network gives image, logits, not logits",
        ),
        (
            Task.CLASSIFY,
            {"tolerances": {"fp16": {"probabilities": Tolerance(absolute=0.5)}}},
            "tolerances.fp16.probabilities is absolute 0.5, looser than the platform's absolute 0.01",
        ),
        (
            Task.CLASSIFY,
            {"changes": {"golden/ramp.npz": tiny.npz(logits=np.zeros((1, 2), np.float32))}},
            "the golden outputs of ramp.png lack probabilities",
        ),
        (Task.DETECT, {"thresholds": {"score": 2.0}}, "thresholds.score is 2, but ramp.png shows a detection of 0.98"),
    ],
)
def test_what_is_served_is_what_is_measured(tmp_path: Path, task: Task, options: Any, told: str) -> None:
    release = tiny.write(tmp_path, task, **options)
    data = tiny.write_data(tmp_path / "data", task, (0.1, 0.2, 0.8, 0.9), (0, 0, 1, 1))
    with pytest.raises(GateFailed, match="is not served as it is measured") as caught:
        found(tmp_path, release, data, task)
    assert told in caught.value.message
    # Servers go on with what was promoted before the gate looked at this, and so does the comparison with it.
    assert found(tmp_path, tiny.write(tmp_path, task), data, task, champion=release).champion is not None


def test_champion_is_compared_as_it_is_served(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data", Task.CLASSIFY, REDS, LABELS)
    release = tiny.write(tmp_path, Task.CLASSIFY)
    both = tiny.write(tmp_path, Task.CLASSIFY, int8=tiny.network(Task.CLASSIFY, threshold=WORSE))
    plain = tiny.write(tmp_path, Task.CLASSIFY, sharpness=7)
    for champion, served, precision, accuracy in (
        (both, "int8", "int8", 0.8),
        (both, "fp32", "fp32", 0.9),
        (plain, "int8", "fp32", 0.9),
    ):
        compared = found(tmp_path, release, data, Task.CLASSIFY, champion=champion, precision=served).champion
        assert compared is not None
        assert (compared.precision, compared.value) == (precision, accuracy)
