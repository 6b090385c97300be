"""What model folders share: the loop of a training, losses, views of images, and the torch modules that are served.

Folders use it; no other room knows it. Everything here needs torch.
"""

from modelport.learning.classify import Classification, classification_pipeline
from modelport.learning.learner import load_average
from modelport.learning.loop import fit
from modelport.learning.networks import classifier
from modelport.learning.preprocess import Preprocess, letterbox
from modelport.learning.segment import Segmentation, segmentation_pipeline
from modelport.learning.unet import SegmentationNet
from modelport.learning.views import Views

__all__ = [
    "Classification",
    "Preprocess",
    "Segmentation",
    "SegmentationNet",
    "Views",
    "classification_pipeline",
    "classifier",
    "fit",
    "letterbox",
    "load_average",
    "segmentation_pipeline",
]
