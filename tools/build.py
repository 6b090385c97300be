"""Building the tools, once per machine: each into a folder of a cache, named by a digest of all that decides its bytes.

A tool is a Go module of ours under ``tools/`` that pins somebody else's by ``go.mod`` and ``go.sum``; nothing is
resolved when it is built, and a download that differs from ``go.sum`` is refused. Two processes that want the same tool
build it once, and one that is killed leaves nothing that looks finished. No third-party package is imported here.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.cache import Say, cache_folder, failure, logged, once, say_on_stderr
from tools.catalog import ROOT, TOOLS, BuildError, Tool, parse_version
from tools.golang import ENVIRONMENT, FLAGS, HASTE, choose_go, wanted_go
from tools.own import own_program

_KINDS = {"crds": "CustomResourceDefinition", "stages": "Stage"}
"""What is taken of a folder: beside it lie kustomizations, policies, and what other people's tests read."""


def program(name: str) -> Path:
    """A program by its name: the user's own where it fits, otherwise built if that has not been done yet.

    Raises:
        BuildError: there is no such program, or it cannot be built.
    """
    for tool in TOOLS.values():
        if name in tool.offers:
            return own_program(name) or ensure(tool) / "bin" / name
    known = ", ".join(sorted(name for tool in TOOLS.values() for name in tool.offers))
    raise BuildError(f"no tool has a program {name!r}; there are: {known}")


def crds(name: str) -> Path:
    """Folder with the custom resource definitions of a tool, one or more to a ``*.yaml`` file.

    Raises:
        BuildError: the tool has none, or its module cannot be downloaded.
    """
    return _folder(name, "crds")


def stages() -> Path:
    """kwok's own stages, such as ``pod/fast/pod-ready.yaml``.

    Raises:
        BuildError: kwok cannot be built.
    """
    return _folder("kwok", "stages")


def _folder(name: str, folder: str) -> Path:
    offering = [tool.name for tool in TOOLS.values() if any(copied.target == folder for copied in tool.copied)]
    if name not in offering:
        raise BuildError(f"no tool {name!r} has {folder}; these have: {', '.join(offering)}")
    return ensure(TOOLS[name]) / folder


def ensure(tool: Tool, *, root: Path = ROOT, cache: Path | None = None, say: Say | None = None) -> Path:
    """Folder of a built tool, with ``bin/``, ``crds/``, ``stages/`` as it has them; builds it if it is missing.

    Args:
        tool: what to build; its Go module is the folder of its name under `root`.
        root: folder of the modules.
        cache: folder of built tools; by default that of this user.
        say: is told what is built and how long it took; by default it goes to standard error.

    Raises:
        BuildError: the build fails; with the last lines of its log.
    """
    say = say or say_on_stderr
    cache = cache or cache_folder(os.environ)
    go = choose_go(wanted_go(root), root.parent / "locks" / "go.txt", cache, say)
    name = f"{tool.name}-{digest(tool, root, go.version)}"

    def build(folder: Path, log: Path) -> None:
        _build(tool, root, go.locate(), folder, log)

    return once(cache, name, " ".join(filter(None, (tool.name, tool.version(root)))), say, build)


def digest(tool: Tool, root: Path, go_version: str) -> str:
    """Twelve hexadecimal digits that change with everything that decides what a build gives."""
    folder = root / tool.name
    files = [folder / "go.mod", folder / "go.sum", *sorted(folder.rglob("*.go"))]
    parts = {
        "files": {
            file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
            if file.is_file()
        },
        "flags": [*_flags(tool), _ldflags(tool, root)],
        "environment": ENVIRONMENT,
        "programs": dict(tool.programs),
        "copied": [[copied.module, copied.source, copied.target] for copied in tool.copied],
        "go": go_version,
        "platform": [platform.system(), platform.machine()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _flags(tool: Tool) -> list[str]:
    return [*FLAGS, *(["-tags", ",".join(tool.tags)] if tool.tags else [])]


def _ldflags(tool: Tool, root: Path) -> str:
    version = tool.version(root) or "v0.0.0"
    major, minor = parse_version(version)[:2]
    return f"-s -w {tool.ldflags.format(version=version, major=major, minor=minor)}".strip()


def _build(tool: Tool, root: Path, go: Path, folder: Path, log: Path) -> None:
    source = root / tool.name
    environment = {**HASTE, **os.environ, **ENVIRONMENT}
    # A Go knows its own root; one that is set may be that of another version.
    environment.pop("GOROOT", None)
    if tool.programs:
        binaries = folder / "bin"
        binaries.mkdir()
        options = [*_flags(tool), "-ldflags", _ldflags(tool, root), "-o", f"{binaries}/"]
        command = [str(go), "build", *options, *tool.programs.values()]
        logged(command, log, cwd=source, environment=environment, what=tool.name)
        for name, package in tool.programs.items():
            built = binaries / _default_name(package)
            if built.name != name:
                built.rename(binaries / name)
    for copied in tool.copied:
        module = _downloaded(copied.module, source, go, environment, log)
        _copy(module / copied.source, folder / copied.target, log)


def _default_name(package: str) -> str:
    """What ``go build`` calls the program of a package: the last part of its path that is no major version."""
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


def _downloaded(module: str, source: Path, go: Path, environment: Mapping[str, str], log: Path) -> Path:
    answer = subprocess.run(
        [str(go), "mod", "download", "-json", module],
        cwd=source,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    with log.open("a") as stream:
        stream.write(answer.stderr + answer.stdout)
    if answer.returncode:
        raise BuildError(failure(f"the download of {module} failed", log))
    return Path(json.loads(answer.stdout)["Dir"])


def _copy(source: Path, target: Path, log: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755)
        return
    kind = _KINDS[target.name]
    files = [file for file in sorted(source.rglob("*.yaml")) if f"\nkind: {kind}\n" in file.read_text()]
    if not files:
        raise BuildError(failure(f"{source} holds no {kind}", log))
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
