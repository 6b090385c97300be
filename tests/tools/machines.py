"""What tests of finding and installing programs need of a machine."""

from pathlib import Path


def program(path: Path) -> Path:
    """A program that does nothing, at a path; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path
