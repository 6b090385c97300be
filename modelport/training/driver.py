"""Ray's driver, in a process of its own: ``python -m modelport.training.driver DESCRIPTOR``.

Apart, because a Ray driver cannot be interrupted from within, because its libraries write to the terminal as they like,
and because whatever happens to it must not take the command with it. It gets an `Order` over a pipe and answers with
events; when the pipe closes, because the command was killed, it ends at once, and its cluster with it.
"""

import gc
import os
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from modelport.errors import ModelportError
from modelport.training.channel import Channel
from modelport.training.cluster import Shares, ray_cluster
from modelport.training.events import Ended, Event, Failed, Note, Ready
from modelport.training.session import end_session
from modelport.training.worker import Job, work

POLL_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Order:
    """What the driver is to do."""

    job: Job
    temporary: Path
    """Folder for everything that Ray writes."""


def main() -> None:
    """Train as ordered, and tell what happens."""
    gc.set_threshold(100_000)  # as on the command line
    pipe: Pipe[Event, Any] = Pipe(int(sys.argv[1]))
    order: Order = pipe.recv()
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    try:
        with ray_cluster(order.job.spec, order.temporary) as shares:
            pipe.send(Ready(threads=shares.cpus))
            pipe.send(_train(order, shares, pipe))
    except ModelportError as error:
        pipe.send(Failed(error, traceback.format_exc()))


def _end_with(pipe: "Pipe[Event, Any]") -> None:
    try:
        pipe.recv()
    except (EOFError, OSError):
        end_session(os.getsid(0))
        os._exit(1)


def _train(order: Order, shares: Shares, pipe: "Pipe[Event, Any]") -> Ended:
    channel = Channel.open()
    done = threading.Event()

    def pass_on() -> None:
        while not done.wait(POLL_INTERVAL_S):
            channel.take(pipe.send)

    passing = threading.Thread(target=pass_on, daemon=True)
    passing.start()
    ended = _fit(replace(order.job, channel=channel, threads=shares.cpus), shares, order.temporary)
    done.set()
    passing.join()
    channel.take(pipe.send)
    return ended


def _fit(job: Job, shares: Shares, temporary: Path) -> Ended:
    import ray.train
    from ray.train.torch import TorchTrainer

    assert job.channel is not None
    workers = job.spec.train.workers.count
    resources: dict[str, float] = {"CPU": shares.cpus, **({"GPU": shares.gpus} if shares.gpus else {})}
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=shares.gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=job.spec.name,
            storage_path=str(temporary / "train"),  # for Ray's own records, which nobody needs
            failure_config=ray.train.FailureConfig(max_failures=job.spec.train.max_failures),
            callbacks=[_loss_teller(job.channel)],
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        return Ended(_summary(error), str(error))
    return Ended()


def _loss_teller(channel: Channel) -> Any:
    """Tells the user when workers are lost, which Ray Train itself only writes into its logs."""
    import ray.train

    class Teller(ray.train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            del run_context
            ranks = ", ".join(str(rank) for rank in sorted(worker_exceptions))
            channel.tell(Note(f"worker {ranks} was lost; workers start anew from the last checkpoint"))

    return Teller()


def _summary(error: Exception) -> str:
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    if not failures:
        return str(error).strip().splitlines()[-1]
    first = next(iter(failures.values()))
    return f"{len(failures)} worker(s) lost, and again after every new start; the first: {type(first).__name__}"


if __name__ == "__main__":
    main()
