"""Steps of a long run: each is said with its time when it ends."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Times the steps of a run, and says a line when one ends."""

    say: Callable[[str], None]
    explain: Callable[[], str] = lambda: ""
    """What to say beside a step that failed: pods, events, logs."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, name: str) -> Generator[list[str]]:
        """Run a step; its block appends what is to be said of it."""
        begin, said = time.monotonic(), list[str]()
        try:
            yield said
        except BaseException:
            self._end(name, begin, [*said, "FAILED"])
            if told := self.explain():
                self.say(told)
            raise
        self._end(name, begin, said)

    def _end(self, name: str, begin: float, said: list[str]) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - begin, 1)
        self.say(f"{now - self.began:7.1f} s  {name:<16} {'; '.join(said)}  ({now - begin:.1f} s)")
