"""The Ray cluster that trains: one of our own on this machine, or the one that we were started in."""

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from modelport.contract import ModelSpec
from modelport.errors import ModelportError

OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Only small messages go through it: examples are read from disk, checkpoints are written there."""


@dataclass(frozen=True)
class Shares:
    """What each worker gets."""

    cpus: int
    gpus: int
    scratch: Path
    """Folder that Ray may write its own records of the run to; nothing in it is needed later."""

    @property
    def threads(self) -> int:
        """Threads that torch may use in a worker."""
        return self.cpus


@contextmanager
def ray_cluster(spec: ModelSpec, workers: int, logs: Path) -> Generator[Shares]:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or start one on this machine and stop it afterwards.

    On this machine one worker gets every processor core, and several share them evenly; what workers print goes to
    files under `logs`. In a given cluster a worker gets what ``train.workers`` asks for.

    Raises:
        ModelportError: Ray did not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Read by Ray Train: how often it looks whether the workers are well. Its own 2 s make every start and end slow.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        yield from _given_cluster(spec)
    else:
        yield from _own_cluster(workers, logs)


def _given_cluster(spec: ModelSpec) -> Generator[Shares]:
    import ray

    _connected(address="auto")
    with tempfile.TemporaryDirectory(prefix="modelport-") as scratch:
        try:
            yield Shares(max(1, int(spec.train.workers.cpus)), spec.train.workers.gpus, Path(scratch))
        finally:
            ray.shutdown()


def _own_cluster(workers: int, logs: Path) -> Generator[Shares]:
    import ray

    # Nobody takes this machine away from us, and a process less starts sooner.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray asks for a token by default. One of our own, for this process and its children, leaves the home folder alone.
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    cores = len(os.sched_getaffinity(0))
    _remove_leftovers()
    # Ray puts Unix sockets under it, whose paths may have 107 characters: a project's own folder may be too deep.
    temporary = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir="/tmp"))
    try:
        _connected(
            address="local",
            num_cpus=max(cores, workers),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            _temp_dir=str(temporary),
        )
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
        yield Shares(max(1, cores // workers), gpus, temporary / "train")
    finally:
        ray.shutdown()
        _keep_logs(temporary, logs)
        shutil.rmtree(temporary, ignore_errors=True)


_PREFIX = "mp-ray-"


def _connected(**options: object) -> None:
    import ray

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options)  # pyright: ignore[reportArgumentType]
    except (RuntimeError, ConnectionError, OSError, ValueError, TimeoutError) as error:
        raise ModelportError(
            f"Ray did not start: {error}",
            remedy="see whether /tmp has room and memory is left; RAY_ADDRESS must be unset to train on this machine",
        ) from error


def _keep_logs(temporary: Path, logs: Path) -> None:
    """Copy what workers printed; the rest of Ray's many logs is only of use to Ray's developers."""
    for file in temporary.glob("session_2*/logs/worker-*"):
        if file.suffix in (".out", ".err") and file.stat().st_size:
            logs.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # a log that cannot be copied is no reason to lose a training
                shutil.copyfile(file, logs / file.name)


def _remove_leftovers() -> None:
    """Remove folders of clusters whose driver was killed; their processes died with it."""
    for folder in Path("/tmp").glob(f"{_PREFIX}*"):  # noqa: S108
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
