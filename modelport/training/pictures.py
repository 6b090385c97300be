"""Predictions beside truth, as one picture for the record of a run."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract import ClassSpec, Task
from modelport.imaging import Mask, Pixels, draw_boxes, draw_caption, overlay

_DEFAULT_COLORS = ((0, 0, 0), (255, 59, 48), (52, 199, 89), (0, 122, 255), (255, 204, 0))


def picture(
    images: Sequence[Pixels],
    truths: Sequence[Mask],
    predictions: Sequence[Mask],
    *,
    colors: Sequence[tuple[int, int, int]] = _DEFAULT_COLORS,
    titles: Sequence[str] | None = None,
) -> bytes:
    """PNG with a row for each example of a segmentation: image, truth, prediction.

    Args:
        images: uint8 [H, W, 3] each, of any sizes.
        truths: uint8 [H, W] of class ids each, of the image's size.
        predictions: the same.
        colors: (red, green, blue) of each class id.
        titles: One for each example.
    """
    rows = [
        (image, overlay(image, truth, colors), overlay(image, prediction, colors))
        for image, truth, prediction in zip(images, truths, predictions, strict=True)
    ]
    return beside(rows, titles)


def draw_truth(task: Task, image: Pixels, truth: NDArray[Any], classes: Sequence[ClassSpec]) -> Pixels:
    """Image uint8 [H, W, 3] with its truth, as `Split.target` gives it: tinted classes, boxes, or a caption."""
    if task is Task.SEGMENT:
        return overlay(image, truth, [info.rgb for info in classes])
    if task is Task.DETECT:
        found = [classes[int(row[4])] for row in truth]
        captions, colors = [info.name for info in found], [info.rgb for info in found]
        return draw_boxes(image, truth[:, :4], captions=captions, colors=colors)
    chosen = classes[int(truth)]
    return draw_caption(image, chosen.name, chosen.rgb)


def draw_outputs(
    task: Task, image: Pixels, outputs: Mapping[str, NDArray[Any]], classes: Sequence[ClassSpec]
) -> Pixels:
    """The same with a model's outputs, and how sure it is."""
    if task is Task.SEGMENT:
        return draw_truth(task, image, outputs["mask"], classes)
    if task is Task.DETECT:
        found = [classes[int(label)] for label in outputs["labels"]]
        captions = [f"{info.name} {score:.2f}" for info, score in zip(found, outputs["scores"], strict=True)]
        return draw_boxes(image, outputs["boxes"], captions=captions, colors=[info.rgb for info in found])
    probabilities = outputs["probabilities"]
    best = int(np.argmax(probabilities))
    return draw_caption(image, f"{classes[best].name} {float(probabilities[best]):.0%}", classes[best].rgb)


def beside(rows: Sequence[tuple[Pixels, Pixels, Pixels]], titles: Sequence[str] | None = None) -> bytes:
    """PNG with a row for each (image, truth, prediction)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: it would open windows, keep every figure, and is not for threads.
    figure = Figure(figsize=(9, max(3.0, 3.0 * len(rows))), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(len(rows), 1), 3, squeeze=False)
    for row, shown in enumerate(rows):
        for axis, pixels, heading in zip(axes[row], shown, ("image", "truth", "prediction"), strict=True):
            axis.imshow(np.asarray(pixels))
            if row == 0:
                axis.set_title(heading)
        if titles is not None:
            axes[row][0].set_ylabel(titles[row])
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
