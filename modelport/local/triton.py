"""A real Triton on one machine: NVIDIA's server from the PyTriton wheel, in an environment of its own.

The server is for development: it listens on 127.0.0.1 only, and what changes it (loading models, shared memory,
settings) wants the admin key. The environment is made once per clone, beside ``.venv``, from the hashes in
``locks/triton.txt``.
"""

import ctypes.util
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import modelport
from modelport.errors import Unavailable

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where Linux keeps it
_MARK = "modelport-lock.sha256"
_RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
_ADMIN_HEADER = "triton-grpc-protocol-admin"
"""Header of the admin key: gRPC's restricted protocol named ``admin`` has this one, and HTTP is given the same."""


@dataclass(frozen=True)
class TritonEnvironment:
    """Where the server's wheel is installed."""

    folder: Path

    @property
    def site(self) -> Path:
        """Its site-packages."""
        return self.folder / "lib" / f"python{_PYTHON}" / "site-packages"

    @property
    def server(self) -> Path:
        """Folder of the server's program, backends and caches."""
        return self.site / "pytriton" / "tritonserver"

    @property
    def library_path(self) -> str:
        """LD_LIBRARY_PATH of the server: its own libraries, and the libpython that its Python processes load."""
        return f"{self.site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"


def lock_file(root: Path) -> Path:
    """The project's lock of Triton's environment, or else the one beside the `modelport` that is running.

    Raises:
        Unavailable: there is neither.
    """
    candidates = [folder / "locks" / "triton.txt" for folder in (root, Path(modelport.__file__).parents[1])]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise Unavailable(
        "there is no lock for Triton's environment", file=candidates[0], remedy="run in a clone of the project"
    )


def ensure_environment(root: Path, say: Callable[[str], None]) -> TritonEnvironment:
    """Make Triton's environment if it is missing or was made from another lock; some 270 MB, seconds when cached.

    Raises:
        Unavailable: it cannot be made.
    """
    lock = lock_file(root)
    environment = TritonEnvironment(lock.parent.parent / ".venv-triton")
    wanted = f"{hashlib.sha256(lock.read_bytes()).hexdigest()} python{_PYTHON}"
    mark = environment.folder / _MARK
    with lock.open() as stream:
        # Two platforms may start at once from one clone: the first makes it, the second waits and finds it.
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not mark.is_file() or mark.read_text() != wanted:
            say(f"installing Triton into {environment.folder} (once)")
            _install(lock, environment)
            mark.write_text(wanted)
    return environment


def _install(lock: Path, environment: TritonEnvironment) -> None:
    python = environment.folder / "bin" / "python"
    shutil.rmtree(environment.folder, ignore_errors=True)
    _uv("venv", "--quiet", "--python", sys.executable, str(environment.folder))
    _uv("pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes", "-r", str(lock))
    stub = environment.server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise Unavailable(
            f"Triton's wheel has no backend for Python {_PYTHON}", remedy="make the .venv with Python 3.11"
        )
    library = sysconfig.get_config_var("INSTSONAME")
    shared = Path(sysconfig.get_config_var("LIBDIR")) / str(library)
    if not shared.is_file() and ctypes.util.find_library(f"python{_PYTHON}") is None:
        raise Unavailable(
            f"this Python has no shared library ({shared}), which Triton's Python backend loads",
            remedy=f"install it (Debian: libpython{_PYTHON}), or use a Python that was built with --enable-shared",
        )
    shutil.copy2(stub, environment.server / "backends" / "python" / stub.name)


def _uv(*arguments: str) -> None:
    beside = Path(sys.executable).parent / "uv"
    program = str(beside) if beside.is_file() else shutil.which("uv")
    if program is None:
        raise Unavailable("uv is not installed", remedy="install the extra: modelport[local]")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        raise Unavailable(
            f"Triton's environment could not be made: uv {arguments[0]} said:\n{done.stderr.strip()[-1500:]}",
            remedy="it needs a package index in reach, or uv's cache filled by an earlier `make setup`",
        )


def lay_out(environment: TritonEnvironment, folder: Path) -> None:
    """Make the model repository and the folder of backends: the wheel's Python one, and ours on top of it."""
    (folder / "repository").mkdir(parents=True, exist_ok=True)
    backends = folder / "backends"
    shutil.rmtree(backends, ignore_errors=True)
    (backends / "onnxruntime").mkdir(parents=True)
    (backends / "python").symlink_to(environment.server / "backends" / "python")
    shutil.copy2(Path(__file__).with_name("triton_backend") / "model.py", backends / "onnxruntime" / "model.py")


def shared_memory_prefix(state_id: str) -> str:
    """Start of the names of this server's regions in /dev/shm."""
    return f"modelport_{state_id}_"


def remove_shared_memory(state_id: str) -> None:
    """Remove what a killed server left in /dev/shm; it would stay there until the machine is restarted."""
    for region in _SHARED_MEMORY.glob(f"{shared_memory_prefix(state_id)}*"):
        region.unlink(missing_ok=True)


def command(
    environment: TritonEnvironment, folder: Path, ports: Mapping[str, int], admin_key: str, state_id: str
) -> list[str]:
    """Command line of the server. Models are loaded when the agent says so, and a broken one never stops it."""
    return [
        str(environment.server / "bin" / "tritonserver"),
        f"--model-repository={folder / 'repository'}",
        f"--backend-directory={folder / 'backends'}",
        f"--cache-directory={environment.server / 'caches'}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--exit-on-error=false",
        "--strict-readiness=false",
        # An open keep-alive connection would hold the shutdown for 30 s.
        "--exit-timeout-secs=2",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        f"--http-port={ports['triton-http']}",
        f"--grpc-port={ports['triton-grpc']}",
        f"--metrics-port={ports['triton-metrics']}",
        f"--http-restricted-api={_RESTRICTED}:{_ADMIN_HEADER}={admin_key}",
        f"--grpc-restricted-protocol={_RESTRICTED}:admin={admin_key}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix(state_id)}",
        # A region grows in these steps up to the largest request; the default of 1 MiB means many remaps on the way.
        "--backend-config=python,shm-default-byte-size=16777216",
        "--backend-config=python,shm-growth-byte-size=16777216",
    ]


def process_environment(environment: TritonEnvironment) -> dict[str, str]:
    """Environment of the server and of its backend's processes."""
    return {
        # The backend's embedded Python finds its packages through the first `python3` on PATH.
        "PATH": f"{environment.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(environment.folder),
        "LD_LIBRARY_PATH": environment.library_path,
        "PYTHONNOUSERSITE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        # Keep the memory of large tensors in the process instead of mapping and zeroing it for every request.
        "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=268435456"
        ":glibc.malloc.trim_threshold=536870912:glibc.malloc.top_pad=67108864",
    }


if __name__ == "__main__":
    # What `make setup` calls, so that the first `modelport local up` does not have to.
    from modelport.project import project_root

    ensure_environment(project_root(), print)
