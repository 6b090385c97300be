"""From single requests to the numbers that people quote. Pure, save for reading the samples."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from modelport.errors import ModelportError

SEVERAL_REASONS = 10
"""A report lists at most so many reasons of failures, the most frequent ones."""


@dataclass(frozen=True)
class Sample:
    """One request."""

    start: float
    """When it was sent, in seconds since the epoch."""
    milliseconds: float
    """Until the answer was complete; checking the answer is not counted."""
    error: str
    """Why it counts as failed; empty when the answer was right."""


class LoadReport(BaseModel):
    """Numbers of one load test. Latencies are of the requests that were answered rightly; None without any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    target: str = Field(description="What was asked: gateway, triton-http or triton-grpc.")
    releases: tuple[str, ...] = Field(description="Digests that an answer could come from to be right.")
    users: int = Field(description="Users at the same time, each with one request under way.")
    seconds: float = Field(description="From the first request to the last answer.")
    requests: int
    failed: int = Field(description="Requests without an answer, with an error, or with a wrong answer.")
    failures: dict[str, int] = Field(description="Reasons of the failed ones, the most frequent first.")
    requests_per_s: float = Field(description="Right answers per second.")
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None

    @property
    def passed(self) -> bool:
        """Whether there were requests, and every one got the right answer."""
        return self.requests > 0 and self.failed == 0


def read_samples(path: Path) -> list[Sample]:
    """Requests of a CSV file as ``locust.contrib.csv_request_logger`` writes it, in the order of their sending.

    A last line cut off by a killed process is left out.

    Raises:
        ModelportError: no such file, or it is of another kind.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError:
        raise ModelportError("the load test left no samples", file=path) from None
    samples: list[Sample] = []
    for number, row in enumerate(rows):
        try:
            samples.append(Sample(float(row["timestamp"]), float(row["response_time_ms"]), row["exception"] or ""))
        except (KeyError, TypeError, ValueError):
            if number == len(rows) - 1:
                break
            raise ModelportError("not a sample of a request", file=path, line=number + 2) from None
    return sorted(samples, key=lambda sample: sample.start)


def summarize(samples: Sequence[Sample], *, model: str, target: str, releases: Sequence[str], users: int) -> LoadReport:
    """The report of a run's samples (any order)."""
    right = sorted(sample.milliseconds for sample in samples if not sample.error)
    begin = min((sample.start for sample in samples), default=0.0)
    end = max((sample.start + sample.milliseconds / 1000 for sample in samples), default=0.0)
    reasons = Counter(sample.error for sample in samples if sample.error)
    return LoadReport(
        model=model,
        target=target,
        releases=tuple(releases),
        users=users,
        seconds=round(end - begin, 3),
        requests=len(samples),
        failed=len(samples) - len(right),
        failures=dict(reasons.most_common(SEVERAL_REASONS)),
        requests_per_s=round(len(right) / (end - begin), 2) if right else 0.0,
        p50_ms=percentile(right, 50),
        p90_ms=percentile(right, 90),
        p99_ms=percentile(right, 99),
        max_ms=percentile(right, 100),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Smallest of the ordered values that at least `share` % of them do not exceed (nearest rank); None of nothing."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)], 2)
