"""What is served, as three torch modules that are exported as they are: preprocess, network, postprocess."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelport.learning import SegmentationNet, segmentation_pipeline
from modelport.release import Pipeline


def pipeline(checkpoint: Path, *, parameters: Mapping[str, Any]) -> Pipeline:
    """Modules to serve, from the folder that holds `checkpoint.pt` of the best epoch."""
    network = SegmentationNet(classes=2, resnet=bool(parameters["pretrained"]))
    return segmentation_pipeline(checkpoint, network, size=int(parameters["size"]), mirror=bool(parameters["mirror"]))
