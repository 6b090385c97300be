"""Programs that the user already has, where their version fits: on PATH, and in ``$KUBEBUILDER_ASSETS``."""

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.catalog import KUBERNETES, ROOT, Version, module_version, parse_version


def own_program(name: str) -> Path | None:
    """The user's own program of this name, if there is one that fits."""
    if name in ("pulumi", "pulumi-language-python-exec"):
        pulumi = _own_pulumi(os.environ.get("PATH", ""))
        if pulumi is None or name == "pulumi":
            return pulumi
        script = pulumi.parent / name
        return script if script.is_file() else None
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return _own_asset(name, Path(assets)) if assets and name in _ASSETS else None


_ASSETS: Mapping[str, tuple[str, ...]] = {
    "etcd": ("--version",),
    "kube-apiserver": ("--version",),
    "kubectl": ("version", "--client"),
}
"""How each program that may be in ``$KUBEBUILDER_ASSETS`` is asked for its version."""

_PULUMI_MINIMUM = (3, 200, 0)
_ETCD_MINIMUM = (3, 6, 0)


@functools.cache
def _own_pulumi(path: str) -> Path | None:
    found = shutil.which("pulumi", path=path)
    # The engine looks for language hosts beside itself first; a CLI without the Python one runs no program of ours.
    if found is None or not Path(found).with_name("pulumi-language-python").is_file():
        return None
    version = _asked(Path(found), ("version",))
    return Path(found) if version is not None and version >= _PULUMI_MINIMUM else None


@functools.cache
def _own_asset(name: str, folder: Path) -> Path | None:
    candidate = folder / name
    version = _asked(candidate, _ASSETS[name]) if candidate.is_file() else None
    if version is None:
        return None
    if name == "etcd":
        return candidate if version >= _ETCD_MINIMUM else None
    wanted = parse_version(module_version(ROOT / "kubernetes", KUBERNETES))
    return candidate if version[:2] == wanted[:2] else None


def _asked(program: Path, arguments: Sequence[str]) -> Version | None:
    """The first version in what a program prints; None where it does not run or prints none."""
    try:
        answer = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "1"},
        )
        return parse_version(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
