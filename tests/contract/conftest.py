"""A small model folder that keeps the contract; tests break it one thing at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelport.contract import ModelFolder
from modelport.imaging import encode_png

MODEL_YAML = """\
name: spots
task: segment
owner: tests
license: Apache-2.0
classes:
  - name: background
  - {name: spot, color: "#00ff00"}
data:
  name: spots
train:
  parameters:
    epochs: 2
    rate: 0.5
    augment: true
  select: {metric: dice}
gate:
  metric: dice
  minimum: 0.5
"""

ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 0
input { name: "image" data_type: TYPE_UINT8 dims: [-1, -1, 3] }
output { name: "mask" data_type: TYPE_UINT8 dims: [-1, -1] }
output { name: "coverage" data_type: TYPE_FP32 dims: [1] }
ensemble_scheduling {
  step {
    model_name: "preprocess" model_version: -1
    input_map { key: "image" value: "image" } output_map { key: "input" value: "scaled" }
  }
  step {
    model_name: "network" model_version: -1
    input_map { key: "input" value: "scaled" } output_map { key: "logits" value: "logits" }
  }
  step {
    model_name: "postprocess" model_version: -1
    input_map { key: "logits" value: "logits" } input_map { key: "image" value: "image" }
    output_map { key: "mask" value: "mask" } output_map { key: "coverage" value: "coverage" }
  }
}
"""
PREPROCESS = """\
backend: "onnxruntime"
max_batch_size: 0
input { name: "image" data_type: TYPE_UINT8 dims: [-1, -1, 3] }
output { name: "input" data_type: TYPE_FP32 dims: [1, 3, 64, 64] }
"""
NETWORK = """\
backend: "onnxruntime"
max_batch_size: 8
input { name: "input" data_type: TYPE_FP32 dims: [3, 64, 64] }
output { name: "logits" data_type: TYPE_FP32 dims: [1, 64, 64] }
dynamic_batching { }
"""
POSTPROCESS = """\
backend: "onnxruntime"
max_batch_size: 0
input { name: "logits" data_type: TYPE_FP32 dims: [1, 1, 64, 64] }
input { name: "image" data_type: TYPE_UINT8 dims: [-1, -1, 3] }
output { name: "mask" data_type: TYPE_UINT8 dims: [-1, -1] }
output { name: "coverage" data_type: TYPE_FP32 dims: [1] }
"""


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    path = tmp_path / "models" / "spots"
    files = {
        "model.yaml": MODEL_YAML,
        "train.py": "def train(run):\n    pass\n",
        "pipeline.py": "def pipeline(checkpoint, *, parameters):\n    pass\n",
        "triton/spots/config.pbtxt": ENSEMBLE,
        "triton/preprocess/config.pbtxt": PREPROCESS,
        "triton/network/config.pbtxt": NETWORK,
        "triton/postprocess/config.pbtxt": POSTPROCESS,
    }
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    golden = path / "sample" / "golden" / "one.png"
    golden.parent.mkdir(parents=True)
    golden.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    return ModelFolder(path)


@pytest.fixture
def edit(folder: ModelFolder) -> Callable[[str, str, str], ModelFolder]:
    """Replace text in a file of the folder, and give the folder as read anew."""

    def change(file: str, old: str, new: str) -> ModelFolder:
        path = folder.path / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return ModelFolder(folder.path)

    return change
