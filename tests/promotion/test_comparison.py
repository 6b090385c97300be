"""The report on variants: real graphs, measured in turns, and what is said of them."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from modelport.contract import Task
from modelport.data import Split, load_heldout
from modelport.errors import BadInput
from modelport.promotion.comparison import Comparison, Missing, Way, compare_variants, judge
from modelport.release import Release, Runtime
from tests.promotion import tiny_tasks as tiny

REDS = (0.1, 0.2, 0.3, 0.4, 0.47, 0.55, 0.6, 0.7, 0.8, 0.9)
LABELS = (0, 0, 0, 0, 0, 1, 1, 1, 1, 1)
GOLDEN = [tiny.image(0.3), tiny.image(0.7)]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    data = tiny.write_data(tmp_path / "data", Task.CLASSIFY, REDS, LABELS)
    return load_heldout(str(data), tiny.spec(Task.CLASSIFY), store=None, cache=tmp_path / "cache")


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return tiny.write(tmp_path, Task.CLASSIFY, int8=tiny.network(Task.CLASSIFY, threshold=0.58))


def way(name: str, runtime: Runtime, *, times: int = 1, notes: Callable[[str], None] = lambda _: None) -> Way:
    """A way that computes everything so many times."""

    def predict(image: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        notes(name)
        for _ in range(times - 1):
            runtime.predict(image)
        return runtime.predict(image)

    def network(_: NDArray[np.float32]) -> object:
        return [runtime.predict(GOLDEN[0]) for _ in range(times)]

    return Way(name, 2_500_000 // times, network, predict)


def compared(release: Release, split: Split, *ways: Way | Missing, rounds: int = 8) -> Comparison:
    inputs = [Runtime(release).predict(image)["input"] for image in GOLDEN]
    return compare_variants(
        release.digest,
        tiny.spec(Task.CLASSIFY),
        ways,
        split,
        split_name="held-out split",
        images=GOLDEN,
        inputs=inputs,
        rounds=rounds,
    )


def test_report(release: Release, split: Split) -> None:
    fp32, int8 = Runtime(release), Runtime(release, precision="int8")
    report = compared(
        release,
        split,
        way("onnx fp32", fp32, times=20),
        way("onnx int8", int8),
        way("openvino fp32", fp32),
        way("onnx slow", fp32, times=60),
        Missing("tensorrt fp16", "needs an NVIDIA GPU"),
    )
    rows = {row.name: row for row in report.rows}
    assert list(rows) == ["onnx fp32", "onnx int8", "openvino fp32", "onnx slow", "tensorrt fp16"]

    reference = rows["onnx fp32"]
    assert reference.verdict == "the reference"
    assert reference.worth_it is None
    assert (reference.speed, reference.network_speed, reference.difference) == (1.0, 1.0, 0.0)
    assert reference.metrics["accuracy"] == 1.0
    assert reference.network is not None
    assert 0 < reference.network.p50 <= reference.network.p95

    # One image of ten is wrong: ten points.
    assert rows["onnx int8"].difference == pytest.approx(-0.1)
    assert rows["onnx int8"].verdict == "not worth it: 10 points worse, and at most 1 is allowed"
    assert rows["openvino fp32"].worth_it
    assert rows["openvino fp32"].speed is not None
    assert rows["openvino fp32"].speed > 2
    assert rows["openvino fp32"].verdict.endswith(" times as fast, as good")
    assert rows["onnx slow"].worth_it is False
    assert rows["onnx slow"].verdict.startswith("not worth it: not faster (0.")
    assert rows["tensorrt fp16"].verdict == "not measured: needs an NVIDIA GPU"
    assert rows["tensorrt fp16"].worth_it is None

    assert Comparison.model_validate_json(report.model_dump_json()) == report
    markdown = report.to_markdown()
    assert "| variant | size | accuracy | difference | network ms | pipeline ms | speed |" in markdown
    assert "| onnx int8 | 2.5 MB | 0.9000 | -0.1000 |" in markdown
    assert "| tensorrt fp16 | - | - | - | - | - | - |" in markdown
    assert "- **tensorrt fp16**: not measured: needs an NVIDIA GPU" in markdown
    assert "accuracy on 10 images of the held-out split" in markdown
    stream = io.StringIO()
    Console(file=stream, width=200).print(report.to_table())
    for row in report.rows:
        assert row.name in stream.getvalue()
        assert row.verdict in stream.getvalue()


def test_rounds_begin_with_another_way_each(release: Release, split: Split) -> None:
    calls: list[str] = []
    runtime = Runtime(release)
    ways = [way(name, runtime, notes=calls.append) for name in "abc"]
    compared(release, split, *ways, rounds=3)
    timed = calls[3 * len(REDS) :]
    # Two golden images each; the first round warms up.
    assert "".join(timed[::2]) == "abc" + "bca" + "cab" + "abc"
    assert timed[::2] == timed[1::2]


def test_way_that_fails_is_a_row_that_says_why(release: Release, split: Split) -> None:
    runtime = Runtime(release)

    def fails(_: object) -> Mapping[str, NDArray[Any]]:
        raise RuntimeError("out of memory")

    def wrong(_: object) -> Mapping[str, NDArray[Any]]:
        return {"probabilities": np.array([2.0, 1.0], np.float32)}

    report = compared(
        release,
        split,
        way("onnx fp32", runtime),
        Way("broken", 1, fails, fails),
        Way("wrong", 1, wrong, wrong),
        rounds=1,
    )
    assert report.rows[1].verdict == "not measured: fails on image dark/0: out of memory"
    assert report.rows[2].verdict.startswith("not measured: answers image dark/0 wrongly: these are no probabilities")
    with pytest.raises(BadInput, match="onnx fp32, which all is held against, fails on image dark/0: out of memory"):
        compared(release, split, Way("onnx fp32", 1, fails, fails), rounds=1)


@pytest.mark.parametrize(
    ("loss", "speed", "worth_it", "verdict"),
    [
        (0.003, 1.8, True, "worth it: 1.80 times as fast, 0.3 points worse"),
        (-0.003, 1.8, True, "worth it: 1.80 times as fast, 0.3 points better"),
        (0.0, 1.8, True, "worth it: 1.80 times as fast, as good"),
        (0.9 - 0.89, 1.8, True, "worth it: 1.80 times as fast, 1 point worse"),
        (0.0104, 1.8, False, "not worth it: 1.04 points worse, and at most 1 is allowed"),
        (0.0, 1.01, False, "not worth it: not faster (1.01 times as fast)"),
        (0.05, 0.7, False, "not worth it: 5 points worse, and at most 1 is allowed; not faster (0.70 times as fast)"),
    ],
)
def test_verdict(loss: float, speed: float, worth_it: bool, verdict: str) -> None:
    assert judge(loss, speed) == (worth_it, verdict)
