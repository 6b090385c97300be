"""Rules of the gate, on numbers: every reason for which a release is refused, and evidence from before."""

from datetime import UTC, datetime

import pytest

from modelport.contract import Direction, Task
from modelport.promotion import Evidence, GateRules
from modelport.promotion.evidence import Champion, Interval, LeakCheck, verdict
from modelport.release import canonical_json, sha256

DIGEST = "ab" * 32


def rules(direction: Direction = Direction.MAX, minimum: float = 0.8, margin: float = 0.0) -> GateRules:
    metric = "accuracy" if direction is Direction.MAX else "calibration_error"
    return GateRules(
        task=Task.CLASSIFY,
        classes=("dry", "wet"),
        metric=metric,
        direction=direction,
        minimum=minimum,
        margin=margin,
        minimum_from="model.yaml",
    )


def champion(value: float | None) -> Champion:
    return Champion(digest=DIGEST, value=value)


@pytest.mark.parametrize(
    ("direction", "minimum", "margin", "value", "against", "reasons"),
    [
        (Direction.MAX, 0.8, 0.0, 0.8, None, []),
        (Direction.MAX, 0.8, 0.0, 0.79, None, ["accuracy 0.7900 misses the minimum 0.8 (model.yaml)"]),
        (Direction.MAX, 0.8, 0.0, 0.85, 0.85, []),
        (Direction.MAX, 0.8, 0.0, 0.84, 0.85, ["accuracy 0.8400 does not hold against the champion's 0.8500"]),
        (Direction.MAX, 0.8, -0.02, 0.84, 0.85, []),
        (Direction.MAX, 0.8, 0.02, 0.86, 0.85, ["accuracy 0.8600 does not hold against"]),
        (Direction.MAX, 0.8, 0.0, 0.7, 0.75, ["accuracy 0.7000 misses", "accuracy 0.7000 does not hold"]),
        (Direction.MIN, 0.1, 0.0, 0.1, None, []),
        (Direction.MIN, 0.1, 0.0, 0.11, None, ["calibration_error 0.1100 misses the maximum 0.1 (model.yaml)"]),
        (Direction.MIN, 0.1, 0.0, 0.05, 0.04, ["calibration_error 0.0500 does not hold against the champion's 0.0400"]),
        (Direction.MIN, 0.1, -0.02, 0.05, 0.04, []),
        (Direction.MIN, 0.1, 0.02, 0.03, 0.04, ["calibration_error 0.0300 does not hold"]),
        (Direction.MIN, 0.1, 0.02, 0.02, 0.04, []),
        (Direction.MAX, 0.8, 0.0, 0.85, "not compared", []),
    ],
)
def test_minimum_and_margin(
    direction: Direction, minimum: float, margin: float, value: float, against: float | str | None, reasons: list[str]
) -> None:
    compared = None if against is None else champion(None if isinstance(against, str) else against)
    found = verdict(rules(direction, minimum, margin), value, compared, [])
    assert [reason[: len(start)] for reason, start in zip(found, reasons, strict=True)] == reasons


@pytest.mark.parametrize(
    ("direction", "minimum", "fp32", "int8", "reasons"),
    [
        (Direction.MAX, 0.8, 0.90, 0.89, []),
        (Direction.MAX, 0.8, 0.90, 0.95, []),
        (
            Direction.MAX,
            0.8,
            0.90,
            0.88,
            ["int8: accuracy 0.8800 is 0.0200 worse than fp32's 0.9000; at most 0.01 is allowed"],
        ),
        (Direction.MAX, 0.8, 0.805, 0.796, ["int8: accuracy 0.7960 misses the minimum 0.8 (model.yaml)"]),
        (Direction.MIN, 0.1, 0.05, 0.06, []),
        (Direction.MIN, 0.1, 0.05, 0.01, []),
        (
            Direction.MIN,
            0.1,
            0.05,
            0.07,
            ["int8: calibration_error 0.0700 is 0.0200 worse than fp32's 0.0500; at most 0.01 is allowed"],
        ),
    ],
)
def test_every_precision_must_pass(
    direction: Direction, minimum: float, fp32: float, int8: float, reasons: list[str]
) -> None:
    assert list(verdict(rules(direction, minimum), fp32, None, [], {"int8": int8})) == reasons


def test_every_precision_holds_against_the_champion() -> None:
    (reason,) = verdict(rules(), 0.9, champion(0.895), [], {"int8": 0.893})
    assert reason.startswith("int8: accuracy 0.8930 does not hold against the champion's 0.8950")


def test_golden_outputs() -> None:
    (reason,) = verdict(rules(), 0.9, None, ["int8: ramp.png: mask is missing"])
    assert reason == "the graphs do not give the golden outputs: int8: ramp.png: mask is missing"


def test_a_class_without_a_held_out_example() -> None:
    (reason,) = verdict(rules(), 0.9, None, [], truth={"dry": 3, "wet": 0})
    assert reason == "nothing is known of class 'wet': no held-out example shows it"
    assert verdict(rules(), 0.9, None, [], truth={"dry": 3, "wet": 1}) == ()
    segment = rules().model_copy(update={"task": Task.SEGMENT})
    assert verdict(segment, 0.9, None, [], truth={"dry": 0, "wet": 1}) == (), "the background need not be seen"
    assert len(verdict(segment, 0.9, None, [], truth={"dry": 1, "wet": 0})) == 1


OLD_RULES = {
    "task": "segment",
    "classes": ["background", "red"],
    "metric": "dice",
    "direction": "max",
    "minimum": 0.9,
    "margin": -0.02,
}


def test_old_evidence_is_read_and_does_not_count() -> None:
    gate_hash = sha256(canonical_json({"rules": OLD_RULES, "champion": DIGEST}))[:16]
    old = {
        "schema": "modelport.evidence/1",
        "model": "m",
        "release": DIGEST,
        "heldout_digest": DIGEST,
        "rules": OLD_RULES | {"minimum_from": "model.yaml"},
        "gate_hash": gate_hash,
        "metrics": {"dice": 0.95, "iou": 0.9},
        "value": 0.95,
        "interval": {"low": 0.9, "high": 1.0, "level": 0.95, "resamples": 2000, "seed": 0},
        "champion": {"digest": DIGEST, "value": 0.94, "note": None},
        "passed": True,
        "reasons": [],
        "leak_check": {"heldout_images": 1, "training_images": 1, "shared": 0},
        "versions": {},
        "made": "2026-01-01T00:00:00Z",
        "who": "somebody",
        "seconds": 1.0,
        "images": [{"id": "1", "scores": {"dice": 0.95, "iou": 0.9}}],
    }
    evidence = Evidence.model_validate_json(canonical_json(old))
    assert evidence.key == f"promotions/m/evidence/{DIGEST}/{DIGEST}-{gate_hash}.json", "where it was put"
    assert evidence.rules.gate_hash(DIGEST) != gate_hash, "that gate did not look at what is served"
    assert evidence.variants == {}
    assert evidence.truth == {}, "not counted then"
    assert evidence.summary().startswith("passed: dice 0.9500 [0.9000, 1.0000] on 1 held-out images, wanted >= 0.9")
    int8 = evidence.rules.model_copy(update={"precision": "int8"})
    plain = evidence.rules.gate_hash(DIGEST)
    assert int8.gate_hash(DIGEST) != plain, "a champion that is served otherwise is another one"


def test_summary_names_every_precision() -> None:
    evidence = Evidence(
        model="m",
        release=DIGEST,
        heldout_digest=DIGEST,
        rules=rules(),
        gate_hash="0" * 16,
        metrics={"accuracy": 0.9},
        value=0.9,
        variants={"int8": {"accuracy": 0.895}},
        interval=Interval(low=0.8, high=0.95, level=0.95, resamples=1000, seed=0),
        champion=None,
        passed=True,
        reasons=(),
        leak_check=LeakCheck(heldout_images=1, training_images=1, shared=0),
        versions={},
        made=datetime(2026, 1, 1, tzinfo=UTC),
        who="somebody",
        seconds=1.0,
        images=(),
    )
    assert "accuracy 0.9000 [0.8000, 0.9500], int8 0.8950 on" in evidence.summary()
    assert Evidence.model_validate_json(evidence.to_bytes()) == evidence
