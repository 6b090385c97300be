"""What a user saw of each fault, for a table at the end of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.whole.asker import Answer, outage

TOLD: list["Seen"] = []
"""In the order in which it happened."""


@dataclass(frozen=True)
class Seen:
    """What a user who asks five times a second saw of a fault."""

    fault: str
    requests: int
    """Sent while it lasted."""
    failed: int
    seconds: float
    """From the first request that failed to the right answer after the last one."""
    remark: str = ""

    def __str__(self) -> str:
        saw = f"{self.failed} failed, for {self.seconds:g} s" if self.failed else "none failed"
        return f"{self.fault}: of {self.requests} requests {saw}{f'; {self.remark}' if self.remark else ''}"


def tell(fault: str, during: Sequence[Answer], remark: str = "") -> Seen:
    """Note what a user saw, and say it."""
    failed, seconds = outage(during)
    seen = Seen(fault, len(during), failed, seconds, remark)
    TOLD.append(seen)
    print(seen)
    return seen


def table() -> list[str]:
    """Lines of a table in Markdown."""
    rows = [f"| {one.fault} | {one.requests} | {one.failed} | {one.seconds:g} | {one.remark} |" for one in TOLD]
    return ["| fault | requests | failed | for s | remark |", "|---|---|---|---|---|", *rows]
