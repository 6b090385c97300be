"""How a training looks while it runs: a bar on a terminal, plain lines in a log."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from modelport.training.events import EpochDone, Event, Note, Ready, Started, Stepped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_INTERVAL_S = 15.0
"""In a log, an unfinished epoch is told of this often."""


class Display:
    """Shows events. Use it as a context; give it itself as `progress` to `modelport.training.start`."""

    def __init__(self, console: "Console | None" = None) -> None:
        """Show on `console` (default: standard error)."""
        from rich.console import Console

        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._epochs: int | None = None
        self._next = 0
        self._workers = 1
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Ready):
            self._say(f"{self._workers} worker(s) with {event.threads} thread(s) start")
        elif isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, EpochDone):
            self._epoch(event)
        elif isinstance(event, Note):
            self._say(f"note: {event.text}")

    def _start(self, event: Started) -> None:
        self._epochs, self._next = event.epochs, event.next_epoch
        if event.next_epoch:
            self._say(f"going on with run {event.run} at epoch {event.next_epoch + 1}; checkpoints in {event.place}")
        else:
            self._say(f"run {event.run}; checkpoints in {event.place}")
        counts = ", ".join(f"{event.counts[name]} {name}" for name in ("train", "selection", "heldout"))
        self._workers = event.workers
        self._say(f"examples: {counts}")
        if self._bar is not None:
            self._task = self._bar.add_task(
                "starting",
                total=None if event.epochs is None else float(event.epochs),
                completed=event.next_epoch,
                detail="",
            )

    def _step(self, event: Stepped) -> None:
        detail = f"step {event.step}/{event.steps} {_numbers(event.metrics)}"
        if self._bar is not None and self._task is not None:
            done = self._next + event.step / max(1, event.steps)
            self._bar.update(self._task, completed=done, description=self._name(self._next), detail=detail)
        elif time.monotonic() - self._told > LINE_INTERVAL_S:
            self._say(f"{self._name(self._next)}  {detail}")

    def _epoch(self, event: EpochDone) -> None:
        record = event.record
        self._next = record.epoch + 1
        mark = "  best so far" if event.best else ""
        self._say(f"{self._name(record.epoch)}  {_numbers(record.metrics)}  {record.seconds:.1f} s{mark}")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._next, description=self._name(self._next), detail="")

    def _name(self, epoch: int) -> str:
        if self._epochs is None:
            return f"epoch {epoch + 1}"
        return f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}"

    def _say(self, line: str) -> None:
        self._told = time.monotonic()
        # Not markup: a path or a message may hold square brackets.
        self._console.print(line, markup=False)


def _numbers(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
