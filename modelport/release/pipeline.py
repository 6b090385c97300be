"""What a model folder's ``pipeline.py`` returns: the three torch modules that are exported and served as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Pipeline:
    """The served model, in eval mode on the CPU.

    Shapes (S, s: the network's own sizes; C: the number of classes; A: of places that a detector looks at):

    - preprocess: image uint8 [H, W, 3] -> input float32 [1, 3, S, S]
    - network: input [B, 3, S, S] -> what the task decides on; no sample of a batch may change another one's:
      segment: logits float32 [B, 1 or C, s, s]; classify: logits float32 [B, C];
      detect: candidates float32 [B, A, 4 + C], boxes as centre x, centre y, width, height in pixels of the input, then
      a score in 0..1 for each class
    - postprocess: that of one sample, and the image -> the outputs of the task's table
    """

    preprocess: "nn.Module"
    network: "nn.Module"
    postprocess: "nn.Module"
    example: "Tensor | None" = None
    """An image uint8 [H, W, 3] to trace with; the first golden image by default."""
    thresholds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Decision thresholds by class, for people who read the manifest; the graphs carry their own."""


NETWORK = "network"
"""The step that learned, and that exists in more than one precision."""
GRAPH_FILE = "model.onnx"
"""Name of a step's graph in its folder, in a release as in Triton."""
