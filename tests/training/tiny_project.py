"""A project with one tiny model and dataset, written by the tests: two convolutions, sixteen images of 16x16."""

import json
import textwrap
from pathlib import Path

import numpy as np

from modelport.imaging import encode_png

MODEL_YAML = """\
name: tiny
task: segment
owner: tests
license: Apache-2.0
classes: [{name: background}, {name: square}]
data: {name: tiny, selection_fraction: 0.2}
train:
  parameters: {epochs: 6, rate: 0.05, pause: 0.0, fail: ""}
  seed: 3
  select: {metric: dice}
gate: {metric: dice, minimum: 0.1}
"""

NETWORK = """\
from torch import nn


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 1, 3, padding=1))
"""

# Every step waits for `pause` seconds, so that a test can kill in the middle of an epoch; `fail` misbehaves on purpose.
TRAIN = """\
import time

import torch
from torch.nn import functional as F

from .network import network


def tensors(split, indices):
    images = torch.stack([torch.from_numpy(split.image(i)).permute(2, 0, 1).float() / 255 for i in indices])
    masks = torch.stack([torch.from_numpy(split.target(i)).float()[None] for i in indices])
    return images, masks


def train(run):
    torch.manual_seed(run.seed)
    model = run.prepare(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=run.parameters["rate"])
    state = run.resume()
    if state is not None:
        getattr(model, "module", model).load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    print("prints go to the run's logs")
    for epoch in run.epochs(run.parameters["epochs"]):
        model.train()
        drawn = torch.Generator().manual_seed(run.seed + epoch)
        order = run.shard(torch.randperm(len(run.train), generator=drawn).tolist())
        for step in range(0, len(order), 4):
            if run.parameters["fail"] == "bug" and epoch == 1:
                raise ValueError("this is a bug of train.py")
            images, masks = tensors(run.train, order[step : step + 4])
            noisy = images + 0.05 * torch.randn_like(images)
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(noisy.to(run.device)), masks.to(run.device))
            loss.backward()
            optimizer.step()
            run.progress(step, len(order), loss=loss.item())
            time.sleep(run.parameters["pause"])
        model.eval()
        with torch.no_grad():
            images, masks = tensors(run.selection, range(len(run.selection)))
            found = torch.sigmoid(model(images.to(run.device)).cpu())
            dice = (2 * (found * masks).sum() / (found.sum() + masks.sum())).item()
        metrics = {"wrong" if run.parameters["fail"] == "metric" else "dice": dice, "loss": loss.item()}
        plain = getattr(model, "module", model).state_dict()
        run.report(metrics, {"model": plain, "optimizer": optimizer.state_dict()}, epoch=epoch)
"""


def write_project(root: Path) -> Path:
    """The project's root."""
    folder = root / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(MODEL_YAML)
    (folder / "network.py").write_text(NETWORK)
    (folder / "train.py").write_text(TRAIN)
    return root


def write_dataset(root: Path, train: int = 16, validation: int = 4, size: int = 16) -> Path:
    """Images of noise with a bright square; the mask is the square."""
    draw = np.random.default_rng(5)
    for split, count in (("train", train), ("validation", validation)):
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True)
        for number in range(count):
            image = draw.integers(0, 100, (size, size, 3), dtype=np.uint8)
            mask = np.zeros((size, size), np.uint8)
            top, left = draw.integers(0, size // 2, 2)
            image[top : top + size // 2, left : left + size // 2] += 120
            mask[top : top + size // 2, left : left + size // 2] = 255
            (root / split / "images" / f"{number:02d}.png").write_bytes(encode_png(image))
            (root / split / "masks" / f"{number:02d}.png").write_bytes(encode_png(mask))
    return root


# Run as a program: trains without exporting, and prints the result as JSON.
DRIVER = textwrap.dedent("""\
    import json, sys
    from pathlib import Path
    from modelport.connection import Connection
    from modelport.contract import find_model
    from modelport.errors import ModelportError
    from modelport.training import Display, start

    def main():
        options = json.loads(sys.argv[1])
        sys.executable = options.pop("python", sys.executable)
        connection = options.pop("connection", None)
        folder = find_model("tiny", Path(options.pop("root")))
        try:
            with Display() as display:
                result = start(
                    folder,
                    options.pop("data"),
                    connection=None if connection is None else Connection.load(Path(connection)),
                    progress=display,
                    **options,
                )
        except ModelportError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        print(json.dumps({
            "run": result.run, "mlflow_run_id": result.mlflow_run_id, "checkpoint": str(result.checkpoint),
            "best_epoch": result.best_epoch, "metrics": result.metrics, "epochs": result.epochs,
            "resumed": result.resumed, "digest": result.data_digest,
        }))

    if __name__ == "__main__":
        main()
    """)


def write_driver(folder: Path) -> Path:
    """The program that a test starts, kills and starts again."""
    file = folder / "driver.py"
    file.write_text(DRIVER)
    return file


def options(**values: object) -> str:
    """Argument of the program."""
    return json.dumps(values)
