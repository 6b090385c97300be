"""Errors that a user can act on: what is wrong, where, and what to do about it.

The class decides the exit code of the command line, so that scripts and pipelines can tell a typing error from a
failed gate or a lost race without reading text.
"""

from pathlib import Path
from typing import ClassVar


class ModelportError(Exception):
    """Base of every error that this project raises on purpose; the command line prints it without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        file: Path | str | None = None,
        line: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = None if file is None else str(file)
        self.line = line
        self.key = key
        self.remedy = remedy

    def __str__(self) -> str:
        place = self.file or ""
        if place and self.line is not None:
            place += f":{self.line}"
        head = ": ".join(part for part in (place, self.key, self.message) if part)
        return f"{head}\n  remedy: {self.remedy}" if self.remedy else head

    def __reduce__(self) -> "tuple[object, ...]":
        # Keyword-only arguments do not survive pickling by default, and errors cross Ray's process boundaries.
        return (_rebuild, (type(self), self.message, self.file, self.line, self.key, self.remedy))


def _rebuild(
    kind: type[ModelportError], message: str, file: str | None, line: int | None, key: str | None, remedy: str | None
) -> ModelportError:
    return kind(message, file=file, line=line, key=key, remedy=remedy)


class BadInput(ModelportError):
    """What the user gave is wrong: a key, a file, an option. Nothing was changed."""

    exit_code = 2


class GateFailed(ModelportError):
    """The release was evaluated and is not good enough. It stays registered and is not promoted."""

    exit_code = 3


class Conflict(ModelportError):
    """Somebody else changed the same thing first. Nothing of ours was written."""

    exit_code = 4


class Unavailable(ModelportError):
    """A service that this command needs does not answer. What was done before is safe."""

    exit_code = 5


class Refused(ModelportError):
    """This identity may not do that, or the version is pinned."""

    exit_code = 6
