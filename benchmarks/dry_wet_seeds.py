"""How good dry_wet is on photographs, over seeds: each holds out another fifth of each class, and trains on the rest.

Each seed is a training through the harness, a release, and the gate's own measurement of its exported graphs, in a
temporary project without a platform:

    .venv/bin/python benchmarks/dry_wet_seeds.py --data PATH/road [--seeds 0 1 2 3 4] [--set train.epochs=10]
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from modelport.contract import ModelFolder, find_model
from modelport.imaging import decode
from modelport.promotion.evaluation import evaluate
from modelport.promotion.gate_job import Job
from modelport.release import build
from modelport.training import start

MODEL = Path(__file__).parents[1] / "models" / "dry_wet"
METRICS = ("balanced_accuracy", "accuracy", "f1", "auroc", "calibration_error")
SHARE = 0.2


def main() -> None:
    """Measure, print a line a seed and the mean, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dry/ and wet/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as modelport train has it")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    options = parser.parse_args()
    print(f"{'seed':<6}{'epoch':>6}{'minutes':>9}{'load':>7}" + "".join(f"{name:>20}" for name in METRICS))
    rows: list[dict[str, float]] = []
    for seed in options.seeds:
        rows.append(measured(seed, options.data.resolve(), options.set))
        row = rows[-1]
        head = f"{seed:<6}{row['best_epoch']:>6.0f}{row['minutes']:>9.1f}{row['load']:>7.1f}"
        print(head + "".join(f"{row[name]:>20.3f}" for name in METRICS), flush=True)
    means = {name: float(np.mean([row[name] for row in rows])) for name in METRICS}
    print(f"{'mean':<28}" + "".join(f"{value:>20.3f}" for value in means.values()))
    if options.out:
        options.out.write_text(json.dumps({"seeds": rows, "mean": means}, indent=2) + "\n")


def measured(seed: int, photographs: Path, overrides: list[str]) -> dict[str, float]:
    """One seed, from the division of the images to the gate's metrics."""
    with tempfile.TemporaryDirectory(prefix="modelport-") as temporary:
        project, data = Path(temporary), Path(temporary) / "road"
        shutil.copytree(MODEL, project / "models" / MODEL.name)
        folder = find_model(MODEL.name, project)
        divide(photographs, data, folder, seed)
        began = time.monotonic()
        result = start(folder, str(data), overrides=[f"train.seed={seed}", *overrides])
        minutes, load = (time.monotonic() - began) / 60, os.getloadavg()[1]
        release = build(folder, result, None, result.spec)
        job = Job(
            release=release.path,
            digest=release.digest,
            champion=None,
            champion_digest=None,
            heldout=str(data),
            spec=result.spec,
            connection=None,
            cache=project / "cache",
        )
        found = evaluate(job).metrics
    return {"best_epoch": result.best_epoch, "minutes": minutes, "load": load, **found}


def divide(photographs: Path, data: Path, folder: ModelFolder, seed: int) -> None:
    """Link the images into train/ and validation/, a fifth of each class into the latter.

    Of the same pixels only the first file is taken: a picture in both parts would flatter.
    """
    seen: set[bytes] = set()
    for label in folder.spec.classes:
        files: list[Path] = []
        for file in sorted((photographs / label.name).iterdir()):
            pixels = decode(file.read_bytes()).tobytes()
            if pixels not in seen:
                files.append(file)
            seen.add(pixels)
        order = np.random.default_rng(seed).permutation(len(files))
        heldout = set(order[: round(SHARE * len(files))].tolist())
        for number, file in enumerate(files):
            target = data / ("validation" if number in heldout else "train") / label.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file)


if __name__ == "__main__":
    main()
