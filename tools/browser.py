"""``python -m tools.browser``: the Chromium in which the tests of the page run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tools.cache import Say, say_on_stderr

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""What Chromium is called on PATH, by distribution."""

VARIABLE = "MODELPORT_CHROMIUM"
"""Environment variable with the path of the user's own."""

HOW = f"install Chromium, or set {VARIABLE} to the path of one; until then the tests of the page are skipped"

_INSTALL = (("apt-get", "update"), ("apt-get", "install", "--yes", "--no-install-recommends", "chromium"))
_MINUTES = 15

Run = Callable[[tuple[str, ...]], int]
"""Runs a command, and gives its exit status."""


def find_browser(environment: Mapping[str, str]) -> Path | None:
    """The browser to use: the one that the user names, or the first on PATH.

    A name that leads nowhere gives None: tests then say so, rather than run in a browser that nobody asked for.
    """
    named = environment.get(VARIABLE)
    if named:
        return Path(named) if os.access(named, os.X_OK) and Path(named).is_file() else None
    found = (shutil.which(name, path=environment.get("PATH", "")) for name in NAMES)
    return next((Path(path) for path in found if path is not None), None)


def ensure_browser(environment: Mapping[str, str], is_root: bool, run: Run, say: Say) -> Path | None:
    """The browser; installed first where there is none, by root on Debian and its like. None where it cannot be had.

    Args:
        environment: variables of the process.
        is_root: whether packages may be installed.
        run: runs a command.
        say: is told what is done and what is missing.
    """
    found = find_browser(environment)
    if found is not None:
        return found
    named = environment.get(VARIABLE)
    if named:
        say(f"{VARIABLE} is {named!r}, which is no program: {HOW}")
        return None
    if not is_root or shutil.which("apt-get", path=environment.get("PATH", "")) is None:
        say(f"there is no Chromium on PATH, and it takes root and apt-get to install it: {HOW}")
        return None
    say("installing Debian's package chromium, for the tests of the page")
    for command in _INSTALL:
        status = run(command)
        if status != 0:
            say(f"`{' '.join(command)}` failed with status {status}: {HOW}")
            return None
    return find_browser(environment)


def _run(command: tuple[str, ...]) -> int:
    """Run a package command without questions; what it prints is shown where it fails only."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60 * _MINUTES,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say_on_stderr(str(error))
        return 1
    if done.returncode != 0:
        say_on_stderr(done.stdout[-2000:])
    return done.returncode


def main() -> int:
    """Say where the browser is. The status is 0 without one, too: nothing but the tests of the page needs it."""
    found = ensure_browser(os.environ, os.geteuid() == 0, _run, say_on_stderr)
    if found is not None:
        print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
