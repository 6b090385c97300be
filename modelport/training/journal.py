"""What a training run has reached: one small document, committed together with each checkpoint.

It is the truth that everything else follows: a resumed run starts after its last epoch, and MLflow is sent what it
holds. Metrics and checkpoint are one atomic commit, so that no kill can leave one without the other.
"""

import math
import time

from pydantic import BaseModel, ConfigDict, Field

from modelport.contract import Direction


class _Part(BaseModel):
    # A diverged training reports NaN, and that has to survive the journey to disk and back.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class CheckpointRef(_Part):
    """A stored checkpoint."""

    epoch: int
    name: str = Field(description="Folder that it lies in; ends with part of its hash, so that no two share one.")
    sha256: str
    size: int = Field(description="Bytes.")


class EpochRecord(_Part):
    """One finished epoch."""

    epoch: int
    metrics: dict[str, float]
    order: str = Field(description="sha256 of the ids of the examples, in the order that they were handed out.")
    examples: int = Field(description="How many were handed out, over all workers.")
    seconds: float
    time_ms: int = Field(description="When it ended, in ms since 1970; with the epoch it names a metric in MLflow.")
    attempt: int


class Journal(_Part):
    """Everything that a run has reached."""

    version: int = 1
    run: str
    attempt: int = Field(default=0, description="How often it was started; a writer of an older attempt is refused.")
    epochs: tuple[EpochRecord, ...] = ()
    latest: CheckpointRef | None = None
    best: CheckpointRef | None = None
    finished: bool = False

    @property
    def next_epoch(self) -> int:
        """The epoch that comes after the last finished one."""
        return self.epochs[-1].epoch + 1 if self.epochs else 0

    @property
    def kept(self) -> set[str]:
        """Names of the checkpoints that are still needed."""
        return {ref.name for ref in (self.latest, self.best) if ref is not None}

    def record(self, epoch: int) -> EpochRecord:
        """Record of a finished epoch."""
        return next(record for record in self.epochs if record.epoch == epoch)

    def started(self) -> "Journal":
        """The journal of a further attempt."""
        return self.model_copy(update={"attempt": self.attempt + 1})

    def ended(self) -> "Journal":
        """The journal of a run that came to its end."""
        return self.model_copy(update={"finished": True})

    def with_epoch(self, record: EpochRecord, ref: CheckpointRef, metric: str, direction: Direction) -> "Journal":
        """The journal after a further epoch, whose checkpoint is stored; the best is the first of equals."""
        better = self.best is None or _beats(
            record.metrics[metric], self.record(self.best.epoch).metrics[metric], direction
        )
        return self.model_copy(
            update={"epochs": (*self.epochs, record), "latest": ref, "best": ref if better else self.best}
        )


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _beats(value: float, best: float, direction: Direction) -> bool:
    if math.isnan(value):
        return False
    if math.isnan(best):
        return True
    return value > best if direction is Direction.MAX else value < best
