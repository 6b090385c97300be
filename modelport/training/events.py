"""What a training tells whoever watches it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelport.training.journal import EpochRecord


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on."""

    run: str
    next_epoch: int
    epochs: int | None
    """How many there will be, if the model has a parameter ``epochs``."""
    counts: Mapping[str, object]
    """Of the dataset, as `Dataset.describe` gives them."""
    workers: int
    place: str
    """Where checkpoints are kept."""


@dataclass(frozen=True)
class Stepped:
    """Part of an epoch is done."""

    step: int
    steps: int
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class EpochDone:
    """An epoch is done, and its checkpoint is safe."""

    record: EpochRecord
    best: bool
    """Whether it is the best so far."""


@dataclass(frozen=True)
class Note:
    """Something that the user should know, and that does not stop the training."""

    text: str


@dataclass(frozen=True)
class Ready:
    """The cluster is there; workers start."""

    threads: int
    """Processor cores of each worker."""


@dataclass(frozen=True)
class Ended:
    """The workers are done, or were lost too often."""

    problem: str | None = None
    """Why they did not come to their end; None when they did."""
    details: str = ""


@dataclass(frozen=True)
class Failed:
    """Training cannot go on, and trying again would not help."""

    error: Exception
    traceback: str


Event = Started | Ready | Stepped | EpochDone | Note | Failed | Ended
