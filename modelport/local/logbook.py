"""Logs of the platform's services."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelport.errors import BadInput
from modelport.local.layout import Layout
from modelport.local.services import NAMES


def logs(
    root: Path, names: Sequence[str] = (), *, lines: int = 50, follow: bool = False, state: Path | None = None
) -> Iterator[tuple[str, str]]:
    """The last lines of the services' logs as (service, line); with `follow`, new ones as they come, without end.

    Raises:
        BadInput: there is no such service.
    """
    for name in names:
        if name not in NAMES:
            raise BadInput(f"there is no service {name!r}", remedy=f"one of: {', '.join(NAMES)}")
    layout = Layout.of(root, state)
    readers = {name: LogReader(layout.log_of(name)) for name in names or NAMES}
    for name, reader in readers.items():
        for line in reader.last(lines):
            yield name, line
    while follow:
        for name, reader in readers.items():
            for line in reader.new():
                yield name, line
        time.sleep(0.3)


class LogReader:
    """Lines of a log that supervisor rotates by renaming."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self._rest = b""

    def last(self, lines: int) -> list[str]:
        """The last lines; `new` goes on after them."""
        found = self.new()
        return found[len(found) - lines :] if len(found) > lines else found

    def new(self) -> list[str]:
        """Whole lines since the last call."""
        try:
            with self._path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset, self._rest = status.st_ino, 0, b""
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]
