"""Environments of tools that the project does not share libraries with, made from their lock file when first needed."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).resolve().parents[2] / "locks"


def checks_environment() -> Path:
    """Folder of the environment with checkov, network-config-analyzer and promql-parser."""
    return environment("checks")


def policy_environment() -> Path:
    """Folder of the policy pack's environment."""
    return environment("policy")


def environment(name: str) -> Path:
    """Folder of the environment of ``locks/<name>.txt``, one for each content of that file, kept between runs."""
    lock = LOCKS / f"{name}.txt"
    cache = Path(os.environ.get("MODELPORT_CACHE") or Path.home() / ".cache") / "modelport"
    folder = cache / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    complete = folder / ".complete"
    if complete.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # another test process may be making it
        if not complete.exists():
            _make(folder, lock)
            complete.touch()
    return folder


def _make(folder: Path, lock: Path) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    assert uv, "uv is needed: make setup"
    shutil.rmtree(folder, ignore_errors=True)
    _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    _run(uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(folder / "bin" / "python"), str(lock))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
