"""What detection folders share: images with boxes in memory, views of them, candidates to boxes, mAP.

Boxes are rows (x1, y1, x2, y2, class id); a pixel in column i covers i to i + 1. Whatever moves an image moves its
boxes by the same numbers.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import affine_grid
from torchvision.ops import nms

from modelport.data import Split
from modelport.errors import BadInput
from modelport.learning.learner import load_average
from modelport.learning.preprocess import PADDING, Preprocess, letterbox
from modelport.learning.views import Views, forward_matrices, randoms, warp
from modelport.release import Pipeline
from modelport.training import Run

MULTIPLE = 32
"""The side of the square is a multiple of this: detectors look at cells of so many pixels in their coarsest grid."""
MOST = 100
"""Boxes that are given for an image at most; the metric counts no more."""
OVERLAP = 0.45
"""Of two boxes of a class that overlap by more (intersection over union), the one with the lower score goes. Not 0.5,
which boxes of equal size at places of a grid can have exactly: which of them stays would hang on the last digit."""
GRAIN = 1 / 4096
"""Scores are rounded to this. A network that has learned little gives one score everywhere but for the last digits, and
those differ from library to library; rounded, they tie, and the first place is taken everywhere."""
LEFT = 0.3
"""Share of a box that must still be in a view for it to be looked for there."""
_EVALUATED_TOGETHER = 16

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes [K, 4], scores [K] and labels [K] of one image."""


class Network(Protocol):
    """A detector that can be trained: candidates [B, A, 4 + C] in eval mode, in training mode what its loss takes."""

    def loss(self, raw: Any, boxes: Sequence[Tensor]) -> Tensor:
        """Mean loss of a batch, of what it gave in training mode and each image's boxes [n, 5] in input pixels."""
        ...


class Detection:
    """A run's images and boxes in memory, at the network's size, and what `fit` asks for."""

    def __init__(self, run: Run, network: Network, views: Views | None) -> None:
        """Reads the parameters ``size`` and ``score``.

        Args:
            run: As given to ``train(run)``.
            network: What `fit` is given too.
            views: Of the training images, without bending; None trains on the images as they are.
        """
        self.run, self.network, self.views = run, network, views
        size = int(run.parameters["size"])
        self.preprocess = preprocess(size)
        self.postprocess = Postprocess(size, score=float(run.parameters["score"]))
        self.classes = len(run.spec.classes)
        self.train = load(run.train, self.preprocess)
        self.selection = load(run.selection, self.preprocess)

    def loss(self, network: nn.Module, indices: Sequence[int], epoch: int) -> Tensor:
        """Of a batch's views."""
        device = self.run.device
        pixels = self.train.images[list(indices)].to(device).float() / 255
        boxes = [self.train.boxes[index].to(device) for index in indices]
        if self.views is not None:
            pixels, boxes = view(pixels, boxes, self.views, seed=self.run.seed, epoch=epoch, indices=indices)
        images = self.preprocess.to(device).normalise(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            raw = network(images)
        return self.network.loss(raw, boxes)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """``map50`` and ``map50_95`` of the boxes that would be served, in pixels of the images themselves."""
        found = detect(network, self.selection, self.preprocess.to(self.run.device), self.postprocess, self.run.device)
        return mean_average_precision(found, self.selection.truths, self.classes)


def detection_pipeline(checkpoint: Path, network: nn.Module, *, size: int, score: float) -> Pipeline:
    """What is served: a checkpoint's averaged weights, loaded into `network`.

    Args:
        checkpoint: Folder of the best epoch's ``checkpoint.pt``.
        network: Built with the parameters of the training.
        size: Side of the square that it sees.
        score: The lowest score of a box that is given.
    """
    load_average(checkpoint, network)
    return Pipeline(
        preprocess=preprocess(size).eval(),
        network=network.eval(),
        postprocess=Postprocess(size, score=score).eval(),
        thresholds={"score": score},
    )


def preprocess(size: int) -> Preprocess:
    """Letterboxed, and 0..1 for the network: detectors are used to pixels that are not normalised further.

    Raises:
        BadInput: the network's grids of places do not fit into such a square.
    """
    if size <= 0 or size % MULTIPLE:
        raise BadInput(f"is {size}, not a multiple of {MULTIPLE}", key="train.parameters.size", remedy="use 320, say")
    return Preprocess(size, letterbox=True, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Samples:
    """A split as the network sees it, in memory: the decoding and resizing is done once, not once an epoch."""

    images: Tensor
    """uint8 [N, 3, S, S], letterboxed by the very module that is served."""
    boxes: list[Tensor]
    """float32 [n, 5] each, in pixels of the letterboxed image."""
    truths: list[NDArray[Any]]
    """float32 [n, 5] each, in pixels of the image itself."""
    sizes: list[tuple[int, int]]
    """Height and width of the images themselves."""


def load(split: Split, preprocess: Preprocess) -> Samples:
    """Decode and letterbox a whole split; 0.3 MB an image at 320x320, a quarter of what float32 would take."""
    size = preprocess.size
    images = torch.empty(len(split), 3, size, size, dtype=torch.uint8)
    truths = [split.target(index) for index in range(len(split))]
    sizes: list[tuple[int, int]] = []
    for index in range(len(split)):
        image = torch.tensor(split.image(index))
        images[index] = (preprocess.pixels(preprocess(image))[0] * 255).round().clamp(0, 255)
        sizes.append((image.shape[0], image.shape[1]))
    boxes = [into_square(torch.tensor(rows), *of, size) for rows, of in zip(truths, sizes, strict=True)]
    return Samples(images, boxes, truths, sizes)


def into_square(boxes: Tensor, height: int, width: int, size: int) -> Tensor:
    """Boxes [n, 4 or more] of an image in pixels of the square that it is letterboxed into."""
    inside_height, inside_width, top, left = letterbox(height, width, size)
    scale = boxes.new_tensor([inside_width / width, inside_height / height]).repeat(2)
    moved = boxes[:, :4] * scale + boxes.new_tensor([left, top]).repeat(2)
    return torch.cat([moved, boxes[:, 4:]], dim=1)


def view(
    pixels: Tensor, boxes: Sequence[Tensor], views: Views, *, seed: int, epoch: int, indices: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Views of a batch in which the boxes move with the images.

    A box becomes the upright rectangle around its moved corners, cut at the rim; one of which too little is left goes.
    What comes in from beyond the rim is grey, as beside a letterboxed image.

    Args:
        pixels: [B, 3, S, S] in 0..1.
        boxes: [n, 5] each, in pixels of the square.
        views: How far they go. They must not bend: a bent box is none.
        seed: Of the run.
        epoch: Its number.
        indices: Each sample's index in the dataset.
    """
    assert not views.bend, "boxes cannot follow an elastic displacement"
    drawn = randoms(seed, epoch, indices)
    matrices = views.matrices(drawn).to(pixels.device)
    grid = affine_grid(matrices, list(pixels.shape), align_corners=False)
    moved = warp(pixels - PADDING, grid) + PADDING
    onward = forward_matrices(matrices)
    rows = [_moved(one, matrix, pixels.shape[-1]) for one, matrix in zip(boxes, onward, strict=True)]
    return views.recolour(moved, drawn), rows


def _moved(boxes: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Boxes [n, 5] under a map [2, 3] of positions of which -1 and 1 are the rims of the square."""
    corners = torch.stack([boxes[:, [0, 2, 2, 0]], boxes[:, [1, 1, 3, 3]]], dim=2) * (2 / size) - 1
    corners = (corners @ matrix[:, :2].T + matrix[:, 2] + 1) * (size / 2)
    whole = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    cut = whole.clamp(0, size)
    return torch.cat([cut, boxes[:, 4:]], dim=1)[_area(cut) > LEFT * _area(whole)]


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


class Postprocess(nn.Module):
    """From candidates to boxes in pixels of the image: best class of each place, threshold, non-maximum suppression."""

    def __init__(self, size: int, *, score: float, overlap: float = OVERLAP, most: int = MOST) -> None:
        """With the side of the network's input, and the lowest score that is given."""
        super().__init__()
        self.size = size
        self.score = score
        self.overlap = overlap
        self.most = most

    def forward(self, candidates: Tensor, image: Tensor) -> Found:
        """Candidates [1, A, 4 + C] and the image uint8 [H, W, 3] -> boxes [K, 4], scores [K], labels int64 [K].

        By falling score; K may be 0. Suppression is within a class. Of the image only the size is read.
        """
        height, width = image.shape[0], image.shape[1]
        inside_height, inside_width, top, left = letterbox(height, width, self.size)
        centre_x, centre_y, across, down = candidates[0, :, :4].unbind(dim=1)
        scores, labels = ((candidates[0, :, 4:] / GRAIN).round() * GRAIN).max(dim=1)
        # In pixels of the picture within the square, cut at its rim; what lies beside it has no area then.
        x1 = (centre_x - across / 2 - left).clamp(0, inside_width)
        x2 = (centre_x + across / 2 - left).clamp(0, inside_width)
        y1 = (centre_y - down / 2 - top).clamp(0, inside_height)
        y2 = (centre_y + down / 2 - top).clamp(0, inside_height)
        kept = ((scores >= self.score) & (x2 > x1) & (y2 > y1)).nonzero()[:, 0]
        boxes = torch.stack([x1, y1, x2, y2], dim=1)[kept]
        scores, labels = scores[kept], labels[kept]
        # Far enough apart that boxes of two classes never overlap.
        apart = (labels * (self.size + 1)).unsqueeze(1)
        best = nms(boxes + apart, scores, self.overlap)[: self.most]
        right, below = width / inside_width, height / inside_height
        x1, y1, x2, y2 = boxes[best].unbind(dim=1)
        return torch.stack([x1 * right, y1 * below, x2 * right, y2 * below], dim=1), scores[best], labels[best]


@torch.no_grad()
def detect(
    network: nn.Module, samples: Samples, preprocess: Preprocess, postprocess: Postprocess, device: torch.device
) -> list[Found]:
    """What a network in eval mode would answer for each image of a split, in pixels of the image."""
    found: list[Found] = []
    for start in range(0, len(samples.images), _EVALUATED_TOGETHER):
        pixels = samples.images[start : start + _EVALUATED_TOGETHER].to(device).float() / 255
        batch = preprocess.normalise(pixels).contiguous(memory_format=torch.channels_last)
        candidates: Tensor = network(batch).float().cpu()
        for one, (height, width) in zip(candidates.split(1), samples.sizes[start:], strict=False):
            found.append(postprocess(one, torch.empty(1, 1, 3, dtype=torch.uint8).expand(height, width, 3)))
    return found


def mean_average_precision(found: Sequence[Found], truths: Sequence[NDArray[Any]], classes: int) -> dict[str, float]:
    """``map50`` and ``map50_95`` as COCO defines them, by pycocotools; 0 where nothing is there to be found.

    Args:
        found: Of each image.
        truths: float32 [n, 5] of each image, in pixels of the same image.
        classes: Their number; one that no image shows does not count.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = [
        {**_coco(box[:4], image), "category_id": int(box[4]), "iscrowd": 0}
        for image, boxes in enumerate(truths)
        for box in boxes.tolist()
    ]
    answers = [
        {**_coco(box, image), "category_id": label, "score": score}
        for image, one in enumerate(found)
        for box, score, label in zip(*(part.tolist() for part in one), strict=True)
    ]
    if not truth or not answers:
        return {"map50": 0.0, "map50_95": 0.0}
    images = [{"id": image} for image in range(len(truths))]
    categories = [{"id": label} for label in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        sides: list[Any] = []
        for rows in (truth, answers):
            side: Any = COCO()
            numbered = [{**row, "id": number} for number, row in enumerate(rows, start=1)]
            side.dataset = {"images": images, "categories": categories, "annotations": numbered}
            side.createIndex()
            sides.append(side)
        evaluation: Any = COCOeval(sides[0], sides[1], "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: NDArray[Any] = evaluation.eval[
        "precision"
    ]  # by threshold, recall, class, area, count; -1: no such class
    return {"map50": _mean(precision[0]), "map50_95": _mean(precision)}


def _coco(box: Sequence[float], image: int) -> Mapping[str, Any]:
    x1, y1, x2, y2 = box
    return {"image_id": image, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _mean(precision: NDArray[Any]) -> float:
    known = precision[precision >= 0]
    return float(known.mean()) if known.size else 0.0
