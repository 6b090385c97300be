"""``python -m tests.whole``: the journey of `tests.whole.journey`, told step by step."""

import sys
import tempfile
from pathlib import Path

from tests.whole.clock import Clock
from tests.whole.journey import Journey
from tests.whole.room import too_little_disk


def main() -> int:
    """Take the journey; the exit status."""
    if reason := too_little_disk():
        print(f"error: {reason}\n  remedy: make room; see docs/cluster-on-one-machine.md", file=sys.stderr)
        return 5
    with tempfile.TemporaryDirectory(prefix="modelport-whole-") as folder:
        Journey(Clock(lambda text: print(text, flush=True))).take(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
