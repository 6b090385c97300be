"""A project with one tiny segmentation in torch, written by the tests: what is redder than a threshold is the object.

Four images of different sizes are its data set's held-out split, four others its training split.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelport.connection import Connection
from modelport.contract import ModelFolder
from modelport.data import load_dataset
from modelport.imaging import encode_png
from modelport.training import TrainingResult

SIZE = 32

MODEL_YAML = """\
name: {name}
task: segment
owner: tests
license: Apache-2.0
classes: [{{name: background}}, {{name: red, color: "#00ff00"}}]
data: {{name: {name}, selection_fraction: 0.3}}
train:
  parameters: {{size: 32}}
  select: {{metric: dice}}
gate: {{metric: dice, minimum: 0.8, margin: -0.01}}
"""

PIPELINE = """\
import torch
from torch import nn
from torch.nn.functional import interpolate

from modelport.release import Pipeline


class Preprocess(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, image):
        pixels = image.permute(2, 0, 1).unsqueeze(0).float() / 255
        return interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)


class Postprocess(nn.Module):
    def forward(self, logits, image):
        size = (image.shape[0], image.shape[1])
        mask = interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0] > 0
        return mask.to(torch.uint8), mask.float().mean().reshape(1)


def pipeline(checkpoint, *, parameters):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    network.load_state_dict(torch.load(checkpoint / "checkpoint.pt", weights_only=True)["model"])
    return Pipeline(Preprocess(parameters["size"]), network, Postprocess(), thresholds={"red": 0.5})
"""

CONFIGS = {
    "preprocess": """
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
output [ { name: "input" data_type: TYPE_FP32 dims: [ 1, 3, 32, 32 ] } ]
""",
    "network": """
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "input" data_type: TYPE_FP32 dims: [ 3, 32, 32 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 1, 32, 32 ] } ]
dynamic_batching { }
""",
    "postprocess": """
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "logits" data_type: TYPE_FP32 dims: [ 1, 1, 32, 32 ] },
        { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
output [ { name: "mask" data_type: TYPE_UINT8 dims: [ -1, -1 ] },
         { name: "coverage" data_type: TYPE_FP32 dims: [ 1 ] } ]
""",
}

ENSEMBLE = """
platform: "ensemble"
max_batch_size: 0
input [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
output [ { name: "mask" data_type: TYPE_UINT8 dims: [ -1, -1 ] },
         { name: "coverage" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling { step [
  { model_name: "preprocess" model_version: -1
    input_map { key: "image" value: "image" } output_map { key: "input" value: "input" } },
  { model_name: "network" model_version: -1
    input_map { key: "input" value: "input" } output_map { key: "logits" value: "logits" } },
  { model_name: "postprocess" model_version: -1
    input_map { key: "logits" value: "logits" } input_map { key: "image" value: "image" }
    output_map { key: "mask" value: "mask" } output_map { key: "coverage" value: "coverage" } }
] }
"""


def image(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: a red ramp from left to right, with noise in green and blue."""
    pixels = np.random.default_rng(seed).integers(0, 60, (height, width, 3), dtype=np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
    return pixels


def truth(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W]: 255 where it is redder than half."""
    return ((pixels[:, :, 0] > 127) * 255).astype(np.uint8)


SIZES = ((48, 64), (40, 40), (64, 50), (33, 71))


def write_project(root: Path, name: str = "redness") -> ModelFolder:
    """A project's root with the model folder `name` and its data set in ``data/``."""
    folder = root / "models" / name
    for step, text in {name: ENSEMBLE, **CONFIGS}.items():
        (folder / "triton" / step).mkdir(parents=True)
        (folder / "triton" / step / "config.pbtxt").write_text(text)
    (folder / "sample" / "golden").mkdir(parents=True)
    (folder / "model.yaml").write_text(MODEL_YAML.format(name=name))
    (folder / "pipeline.py").write_text(PIPELINE)
    (folder / "train.py").write_text("def train(run):\n    raise NotImplementedError\n")
    for number, (height, width) in enumerate(SIZES):
        (folder / "sample" / "golden" / f"{number}.png").write_bytes(encode_png(image(100 + number, height, width)))
    write_dataset(root / "data")
    return ModelFolder(folder)


def write_dataset(root: Path) -> Path:
    for split, first in (("train", 0), ("validation", 10)):
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True)
        for number, size in enumerate(SIZES):
            write_example(root / split, str(number), first + number, size)
    return root


def write_example(split: Path, name: str, seed: int, size: tuple[int, int] = SIZES[0]) -> None:
    pixels = image(seed, *size)
    (split / "images" / f"{name}.png").write_bytes(encode_png(pixels))
    (split / "masks" / f"{name}.png").write_bytes(encode_png(truth(pixels)))


def trained(folder: ModelFolder, connection: Connection | None = None, run_key: str = "run") -> TrainingResult:
    """What a training of the folder would hand over: a checkpoint, here with weights that are known to be good."""
    import torch

    project = folder.path.parent.parent
    checkpoint = project / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    if not (checkpoint / "checkpoint.pt").exists():
        weights = {
            "0.weight": torch.randn((4, 3, 3, 3), generator=torch.Generator().manual_seed(0)) * 0.001,
            "0.bias": torch.zeros(4),
            "2.weight": torch.zeros(1, 4, 1, 1),
            "2.bias": torch.tensor([-4.0]),
        }
        weights["0.weight"][0, 0, 1, 1] = 1.0
        weights["2.weight"][0, 0] = 8.0
        torch.save({"model": weights}, checkpoint / "checkpoint.pt")
    dataset = load_dataset(str(project / "data"), folder.spec, store=None, cache=project / "cache")
    return TrainingResult(
        run="run1",
        run_key=run_key,
        mlflow_run_id="" if connection is None else mlflow_run(connection, folder.name),
        checkpoint=checkpoint,
        best_epoch=0,
        metrics={"dice": 0.9, "loss": float("nan")},
        epochs=[],
        spec=folder.spec,
        dataset=dataset,
        data_digest=dataset.digest,
        heldout_digest=dataset.heldout_digest,
        code_digest=folder.bundle().digest,
        resumed=False,
        seconds=1.0,
    )


def mlflow_run(connection: Connection, model: str) -> str:
    """A run in MLflow, as training makes one."""
    connection.configure_tracking()
    from mlflow import MlflowClient

    client = MlflowClient(connection.tracking_uri)
    found = client.get_experiment_by_name(model)
    experiment = found.experiment_id if found else client.create_experiment(model)
    return client.create_run(experiment).info.run_id
