"""Programs of the operating system that tests need: found, or installed from Debian's packages where that can be done.

From Python: ``need("runc", "nftables")``; from a shell: ``python -m tools.debian runc nftables``.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from tools.cache import Say, cache_folder, locked, say_on_stderr

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "e2fsprogs": ("mkfs.ext4",),
    "iproute2": ("ip",),
    "nftables": ("nft",),
    "util-linux": ("nsenter",),
}
"""What the program of a package is called, by distribution; any of them will do. Others are called as their package."""

Run = Callable[[tuple[str, ...]], int]
"""Runs a command, and gives its exit status."""

_SYSTEM_FOLDERS = "/usr/sbin:/sbin"
"""Not on everybody's PATH, and where programs for root are."""
_MINUTES = 15


class PackagesMissing(Exception):
    """Packages are not there and cannot be installed; the message says which, why, and what to do."""


def need(*packages: str) -> None:
    """See to it that Debian packages are there; as root on Debian and its like, what is missing is installed.

    Raises:
        PackagesMissing: some are not there and cannot be installed.
    """
    missing = [package for package in packages if not is_there(package, os.environ)]
    if not missing:
        return
    with locked(cache_folder(os.environ) / "packages.lock", "an installation of packages", say_on_stderr):
        # Whoever held the lock may have installed them.
        missing = [package for package in missing if not is_there(package, os.environ)]
        if missing:
            install(missing, os.environ, os.geteuid() == 0, run_quietly, say_on_stderr)


def is_there(package: str, environment: Mapping[str, str]) -> bool:
    """Whether a package is there: by its program, as other distributions have it too, or by what dpkg says."""
    path = f"{environment.get('PATH', '')}:{_SYSTEM_FOLDERS}"
    if any(shutil.which(program, path=path) for program in PROGRAMS.get(package, (package,))):
        return True
    dpkg = shutil.which("dpkg-query", path=path)
    if package in PROGRAMS or dpkg is None:
        return False
    asked = [dpkg, "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout == "installed"


def install(packages: Sequence[str], environment: Mapping[str, str], is_root: bool, run: Run, say: Say) -> None:
    """Install Debian packages.

    Args:
        packages: their names.
        environment: variables of the process.
        is_root: whether packages may be installed.
        run: runs a command.
        say: is told what is done.

    Raises:
        PackagesMissing: it takes root and apt-get, or they failed.
    """
    names = ", ".join(packages)
    if not is_root or shutil.which("apt-get", path=environment.get("PATH", "")) is None:
        raise PackagesMissing(f"missing: {names}; it takes root and apt-get to install them")
    say(f"installing Debian's {'package' if len(packages) == 1 else 'packages'} {names}")
    for command in (
        ("apt-get", "update"),
        # Somebody else, such as the machine's own updates, may hold dpkg's lock for a moment.
        ("apt-get", "install", "--yes", "--no-install-recommends", "--option=DPkg::Lock::Timeout=300", *packages),
    ):
        status = run(command)
        if status != 0:
            raise PackagesMissing(f"missing: {names}; `{' '.join(command)}` failed with status {status}")


def run_quietly(command: tuple[str, ...]) -> int:
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


def main(packages: Sequence[str]) -> int:
    """Install what is missing; returns the exit status."""
    try:
        need(*packages)
    except PackagesMissing as error:
        say_on_stderr(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
