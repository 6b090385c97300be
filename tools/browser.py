"""``python -m tools.browser``: the Chromium in which the tests of the page run."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.cache import Say, say_on_stderr
from tools.debian import PROGRAMS, PackagesMissing, Run, install, run_quietly

NAMES = PROGRAMS["chromium"]
"""What Chromium is called on PATH, by distribution."""

VARIABLE = "MODELPORT_CHROMIUM"
"""Environment variable with the path of the user's own."""

HOW = f"install Chromium, or set {VARIABLE} to the path of one; until then the tests of the page are skipped"


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
    try:
        install(["chromium"], environment, is_root, run, say)
    except PackagesMissing as error:
        say(f"{error}: {HOW}")
        return None
    return find_browser(environment)


def main() -> int:
    """Say where the browser is. The status is 0 without one, too: nothing but the tests of the page needs it."""
    found = ensure_browser(os.environ, os.geteuid() == 0, run_quietly, say_on_stderr)
    if found is not None:
        print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
