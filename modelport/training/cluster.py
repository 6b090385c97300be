"""The Ray cluster that trains: one of our own on this machine, or the one that we were started in."""

import logging
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelport.contract import ModelSpec
from modelport.errors import ModelportError

_TOO_SLOW = "timed out during startup"
"""Of what Ray says then."""
OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Only small messages go through it: examples are read from disk, checkpoints are written there."""


class RayTooSlow(ModelportError):
    """Ray was not up within the half-minute that it gives itself on this machine, which cannot be set.

    On a busy machine it may be the next time; in another process, since this one still has what it had started.
    """


@dataclass(frozen=True)
class Shares:
    """What each worker gets."""

    cpus: int
    """Processor cores, and threads that torch may use."""
    gpus: int


@contextmanager
def ray_cluster(spec: ModelSpec, temporary: Path) -> Generator[Shares]:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or start one on this machine and stop it afterwards.

    On this machine one worker gets every processor core, and several share them evenly. In a given cluster a worker
    gets what ``train.workers`` asks for.

    Args:
        spec: Says how many workers there will be, and their shares.
        temporary: Folder for everything that Ray writes. Its path must be short: Ray puts Unix sockets under it, whose
            paths may have 107 characters.

    Raises:
        RayTooSlow: Ray was not up in time.
        ModelportError: it did not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    # How often Ray Train looks whether the workers are well. Its own 2 s make every start and end slow.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    given = bool(os.environ.get("RAY_ADDRESS"))
    if not given:
        # What workers unpack goes with what Ray writes, though they were killed.
        os.environ["TMPDIR"] = str(temporary)
        # Ray's workers run at the lowest priority but four unless told otherwise, and anything else then starves them.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Nobody takes this machine away from us, and a process less starts sooner.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # Ray asks for a token by default. One of our own, for this process and its children, leaves the home folder
        # alone.
        if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    try:
        yield _join(spec) if given else _start(spec, temporary)
    finally:
        import ray

        ray.shutdown()


def _join(spec: ModelSpec) -> Shares:
    _connect(address="auto")
    return Shares(max(1, int(spec.train.workers.cpus)), spec.train.workers.gpus)


def _start(spec: ModelSpec, temporary: Path) -> Shares:
    import ray

    cores, workers = len(os.sched_getaffinity(0)), spec.train.workers.count
    _connect(
        address="local",
        num_cpus=max(cores, workers),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        _temp_dir=str(temporary),
    )
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
    return Shares(max(1, cores // workers), gpus)


def _connect(**options: object) -> None:
    import ray

    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # of no narrower class where it was too slow
        kind = RayTooSlow if _TOO_SLOW in str(error) else ModelportError
        raise kind(
            f"Ray did not start: {error}",
            remedy="see whether /tmp has room and memory is left; RAY_ADDRESS must be unset to train on this machine",
        ) from error
