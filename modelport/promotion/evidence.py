"""What a gate found: enough to see, much later, why a release was let through or not."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelport.contract import Direction, ModelFolder, Task
from modelport.errors import BadInput
from modelport.objects import ObjectInfo, ObjectStore
from modelport.promotion.log import LOGS
from modelport.release import FP32, canonical_json, sha256

CHECKS = 2
"""Counted up when the gate looks at more: what passed before is to be gated again before it is promoted.

2: that what is served is what is measured (`modelport.promotion.as_served`).
"""
VARIANT_LOSS = 0.01
"""How much worse than fp32 another precision of the same release may be, in the gate's metric: one point.

It is served in place of what the gate's other numbers are about, so that it must be nearly as good whatever the minimum
leaves room for.
"""
_ROUNDING = 1e-9
"""So that 0.90 and 0.89 are one point apart in floating point as well."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GateRules(_Part):
    """What a release must reach. From the promoter's own checkout, never from the release."""

    task: Task
    classes: tuple[str, ...]
    metric: str
    direction: Direction
    minimum: float
    margin: float
    """How much worse than the champion a release may be."""
    minimum_from: str
    """Where the minimum was taken from, for people."""
    precision: str = FP32
    """What the model is to be served in: a champion that carries this precision is compared in it."""

    def gate_hash(self, champion: str | None) -> str:
        """First 16 digits of a hash over these rules and the champion that was compared with.

        Evidence counts for a promotion only under the same hash: other rules, another champion, or a gate that
        looked at less want a new one.
        """
        rules = self.model_dump(mode="json", exclude={"minimum_from"})
        return sha256(canonical_json({"checks": CHECKS, "rules": rules, "champion": champion}))[:16]

    def good_enough(self, value: float) -> bool:
        """Whether a value reaches the minimum."""
        return value >= self.minimum if self.direction is Direction.MAX else value <= self.minimum

    def holds_against(self, value: float, champion: float) -> bool:
        """Whether a value is better than the champion's by at least the margin (which may be negative)."""
        if self.direction is Direction.MAX:
            return value >= champion + self.margin
        return value <= champion - self.margin

    def loss(self, value: float, reference: float) -> float:
        """How much worse a value is than another; negative where it is better."""
        return reference - value if self.direction is Direction.MAX else value - reference


class ImageScore(_Part):
    """One image of the held-out split."""

    id: str
    scores: dict[str, float]


class Interval(_Part):
    """Bootstrap confidence interval of the metric, over images; of fp32."""

    low: float
    high: float
    level: float
    resamples: int
    """Without those that the metric is not defined for."""
    seed: int


class Champion(_Part):
    """The release that was desired when the gate ran, on the same images."""

    digest: str
    value: float | None
    """Its metric; None where it cannot be compared."""
    precision: str = FP32
    """What `value` was measured in."""
    note: str | None = None
    """Why it was not compared."""


class LeakCheck(_Part):
    """Whether held-out images were trained on. Evidence exists only where none was."""

    heldout_images: int
    training_images: int
    shared: int


class Evidence(_Part):
    """The result of one gate."""

    schema_: Literal["modelport.evidence/1"] = Field(default="modelport.evidence/1", alias="schema")
    model: str
    release: str
    """Digest."""
    heldout_digest: str
    rules: GateRules
    gate_hash: str
    metrics: dict[str, float]
    """Every metric of the task, in fp32."""
    value: float
    """The gate's metric, in fp32."""
    variants: dict[str, dict[str, float]] = {}
    """Every metric by further precision that the release carries."""
    interval: Interval
    champion: Champion | None
    passed: bool
    reasons: tuple[str, ...]
    """Why it did not pass."""
    leak_check: LeakCheck
    versions: dict[str, str]
    """Of the libraries that computed this."""
    truth: dict[str, int] = {}
    """Held-out examples by class: images of it (classify), that show it (segment), or boxes (detect); empty in evidence
    from before they were counted."""
    made: datetime
    who: str
    seconds: float
    images: tuple[ImageScore, ...]

    @property
    def key(self) -> str:
        """Key of this evidence in the bucket."""
        return f"{evidence_prefix(self.model)}{self.release}/{self.heldout_digest}-{self.gate_hash}.json"

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    def summary(self) -> str:
        """One line."""
        sign = ">=" if self.rules.direction is Direction.MAX else "<="
        against = ""
        if self.champion is not None and self.champion.value is not None:
            against = f", champion {self.champion.digest[:12]} {self.champion.value:.4f}, margin {self.rules.margin:g}"
        others = "".join(f", {name} {found[self.rules.metric]:.4f}" for name, found in self.variants.items())
        return (
            f"{'passed' if self.passed else 'failed'}: {self.rules.metric} {self.value:.4f} "
            f"[{self.interval.low:.4f}, {self.interval.high:.4f}]{others} on {len(self.images)} held-out images, "
            f"wanted {sign} {self.rules.minimum:g}{against}"
        )


def rules_of(folder: ModelFolder, minimum: float | None = None) -> GateRules:
    """Rules of a model folder, in the promoter's checkout.

    Args:
        minimum: another minimum than the folder's; evidence says that it was given.
    """
    spec = folder.spec
    return GateRules(
        task=spec.task,
        classes=tuple(label.name for label in spec.classes),
        metric=spec.gate.metric,
        direction=spec.gate.direction,
        minimum=spec.gate.minimum if minimum is None else minimum,
        margin=spec.gate.margin,
        minimum_from=f"models/{folder.name}/model.yaml gate.minimum" if minimum is None else "the --minimum option",
        precision=spec.serve.precision,
    )


def evidence_prefix(model: str) -> str:
    """Prefix of a model's evidence, ``<digest>/<heldout>-<gatehash>.json`` below it."""
    return f"{LOGS}{model}/evidence/"


def evidence_by_release(store: ObjectStore, model: str) -> dict[str, list[ObjectInfo]]:
    """Evidence objects of each release, the newest first."""
    prefix = evidence_prefix(model)
    found: dict[str, list[ObjectInfo]] = {}
    for row in sorted(store.list(prefix), key=lambda row: row.modified, reverse=True):
        found.setdefault(row.key.removeprefix(prefix).partition("/")[0], []).append(row)
    return found


def read_evidence(store: ObjectStore, key: str) -> tuple[Evidence, str]:
    """Evidence, and the sha256 of its bytes.

    Raises:
        BadInput: the object is damaged.
    """
    data = store.get(key)
    try:
        return Evidence.model_validate_json(data), sha256(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadInput(
            f"is no evidence: {first['msg']}", file=f"s3://{store.bucket}/{key}", remedy="run the gate again"
        ) from None


def within_loss(loss: float) -> bool:
    """Whether another precision that is so much worse than fp32 may still be served."""
    return loss <= VARIANT_LOSS + _ROUNDING


def verdict(
    rules: GateRules,
    value: float,
    champion: Champion | None,
    golden_problems: Sequence[str],
    variants: Mapping[str, float] | None = None,
    truth: Mapping[str, int] | None = None,
) -> tuple[str, ...]:
    """Why a release does not pass; empty when it does. Every precision that it carries must.

    Args:
        value: the gate's metric in fp32.
        variants: the same by further precision.
        truth: held-out examples by class. A metric leaves out a class without any, so that it may be as bad as it
            likes; None where they were not counted.
    """
    reasons = [f"the graphs do not give the golden outputs: {problem}" for problem in golden_problems]
    if truth is not None:
        # Id 0 of a segmentation is the background.
        wanted = rules.classes[1:] if rules.task is Task.SEGMENT else rules.classes
        reasons += [
            f"nothing is known of class {name!r}: no held-out example shows it"
            for name in wanted
            if not truth.get(name)
        ]
    reasons += _misses(rules, value, champion)
    for precision, found in (variants or {}).items():
        reasons += [f"{precision}: {reason}" for reason in _misses(rules, found, champion)]
        loss = rules.loss(found, value)
        if not within_loss(loss):
            reasons.append(
                f"{precision}: {rules.metric} {found:.4f} is {loss:.4f} worse than fp32's {value:.4f}; "
                f"at most {VARIANT_LOSS:g} is allowed"
            )
    return tuple(reasons)


def _misses(rules: GateRules, value: float, champion: Champion | None) -> list[str]:
    reasons: list[str] = []
    if not rules.good_enough(value):
        what = "minimum" if rules.direction is Direction.MAX else "maximum"
        reasons.append(f"{rules.metric} {value:.4f} misses the {what} {rules.minimum:g} ({rules.minimum_from})")
    if champion is not None and champion.value is not None and not rules.holds_against(value, champion.value):
        reasons.append(
            f"{rules.metric} {value:.4f} does not hold against the champion's {champion.value:.4f} "
            f"({champion.digest[:12]}) with a margin of {rules.margin:g}"
        )
    return reasons
