"""What training through the harness costs: Ray Train beside a plain torch loop, and two workers beside one.

Each way trains dry_wet's network on the same drawn pictures, in a process of its own, with the same batch for each
worker: two workers take two batches in a step. The ways take turns (A B C D, B C D A, ...). An epoch counts as a whole,
with evaluation and checkpoint; each process's first one does not count.

    .venv/bin/python benchmarks/training_throughput.py [--rounds 3] [--images 768] [--batch 32]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image

from modelport.contract import ModelFolder, ModelSpec, apply_overrides, find_model
from modelport.data import load_dataset
from modelport.learning import Classification, Views, classifier
from modelport.learning.learner import Learner, learning_rate
from modelport.training import load_entry, start
from modelport.training.cluster import ray_cluster

ROOT = Path(__file__).parents[1]
VIEWS = Views(rim="reflection")
PLAIN, ALONE, TOGETHER, PLAIN_2, HARNESS_2 = (
    "plain torch, 1 thread",
    "harness, 1 worker of 1 thread",
    "harness, 2 workers of 1 thread",
    "plain torch, 2 threads",
    "harness, 1 worker of 2 threads",
)
WAYS = {PLAIN: (0, 1), ALONE: (1, 1), TOGETHER: (2, 1), PLAIN_2: (0, 2), HARNESS_2: (1, 2)}
"""Workers (none is the plain loop) and threads of each."""


def main() -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each way")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each training")
    parser.add_argument("--images", type=int, default=768, help="pictures to draw")
    parser.add_argument("--batch", type=int, default=32, help="pictures in each worker's batch")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "PROJECT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(epochs_of(options.one[0], Path(options.one[1]), options.epochs, options.batch)))
        return
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="modelport-") as temporary:
        project = Path(temporary)
        (project / "models").mkdir()
        subprocess.run(["cp", "-r", str(ROOT / "models" / "dry_wet"), str(project / "models")], check=True)
        draw(project / "data", options.images)
        for turn in range(options.rounds):
            order = [list(WAYS)[(place + turn) % len(WAYS)] for place in range(len(WAYS))]
            for way in order:
                command = [sys.executable, __file__, "--one", way, temporary, "--epochs", str(options.epochs)]
                command += ["--batch", str(options.batch)]
                answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                found[way] += json.loads(answer.splitlines()[-1])
                print(
                    f"  {way:<34}{statistics.median(found[way]):>8.1f} images/s  load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    medians = {way: statistics.median(values) for way, values in found.items()}
    ratios = {
        "harness / plain torch": medians[ALONE] / medians[PLAIN],
        "the same with 2 threads": medians[HARNESS_2] / medians[PLAIN_2],
        "two workers / one": medians[TOGETHER] / medians[ALONE],
    }
    for name, value in {**medians, **ratios}.items():
        print(f"{name:<36}{value:>8.3f}" if name in ratios else f"{name:<36}{value:>8.1f} images/s")
    if options.out:
        options.out.write_text(json.dumps({"images_per_second": medians, "ratios": ratios}, indent=2) + "\n")


def draw(data: Path, count: int) -> None:
    """A dataset of drawn pictures, half of them wet; a few are held out because a dataset has such."""
    picture = load_entry(ROOT / "models" / "dry_wet", "sample").draw
    for number in range(count):
        wet = number % 2 == 1
        folder = data / ("validation" if number < count // 16 else "train") / ("wet" if wet else "dry")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(wet, np.random.default_rng(number))).save(folder / f"{number:04}.jpg")


def epochs_of(way: str, project: Path, epochs: int, batch: int) -> list[float]:
    """Images a second in each epoch of one training but the first, from one epoch's end to the next one's."""
    workers, threads = WAYS[way]
    folder = find_model("dry_wet", project)
    if not workers:
        return plain(folder, project, epochs, threads, batch)
    overrides = [f"train.epochs={epochs}", f"train.workers.cpus={threads}", f"train.batch_size={batch * workers}"]
    with given_cluster(folder.spec):
        result = start(folder, str(project / "data"), overrides=overrides, workers=workers, again=True)
    ends = pairwise(result.epochs)
    return [1000 * record["examples"] / (record["time_ms"] - before["time_ms"]) for before, record in ends]


@contextmanager
def given_cluster(spec: ModelSpec) -> Generator[None]:
    """A Ray cluster like the harness's own, for it to join: there a worker gets the threads that it asks for.

    In one of its own, a worker that is alone on the machine gets all of it, whatever it asks for.
    """
    with tempfile.TemporaryDirectory(prefix="mp-") as temporary, ray_cluster(spec, Path(temporary)):
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        yield


def plain(folder: ModelFolder, project: Path, epochs: int, threads: int, batch: int) -> list[float]:
    """The same training as somebody would write it in torch alone."""
    torch.set_num_threads(threads)
    spec = apply_overrides(folder.spec, [f"train.epochs={epochs}"])
    dataset = load_dataset(str(project / "data"), spec, store=None, cache=project / "cache")
    parameters = spec.train.parameters
    run: Any = SimpleNamespace(
        spec=spec,
        parameters=parameters,
        seed=0,
        device=torch.device("cpu"),
        train=dataset.train,
        selection=dataset.selection,
    )
    task = Classification(run, VIEWS)
    learner = Learner(classifier("small", 2), float(parameters["weight_decay"]))
    size, rates = batch, []
    steps = len(dataset.train) // size
    for epoch in range(epochs):
        began = time.monotonic()
        order = np.random.default_rng((0, epoch)).permutation(len(dataset.train)).tolist()
        learner.network.train()
        for step in range(steps):
            loss = task.loss(learner.network, order[step * size : (step + 1) * size], epoch)
            number = epoch * steps + step
            peak = float(parameters["learning_rate"])
            learner.step(loss, learning_rate(number / (epochs * steps), peak), number)
        with torch.no_grad():
            task.evaluate(learner.average.eval())
        torch.save(learner.state(), project / "plain.pt")
        rates.append(len(dataset.train) / (time.monotonic() - began))
    return rates[1:]


if __name__ == "__main__":
    main()
