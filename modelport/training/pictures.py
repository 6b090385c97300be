"""Predictions beside truth, as one picture for the record of a run."""

import io
from collections.abc import Sequence

import numpy as np

from modelport.imaging import Mask, Pixels, overlay

_DEFAULT_COLORS = ((0, 0, 0), (255, 59, 48), (52, 199, 89), (0, 122, 255), (255, 204, 0))


def picture(
    images: Sequence[Pixels],
    truths: Sequence[Mask],
    predictions: Sequence[Mask],
    *,
    colors: Sequence[tuple[int, int, int]] = _DEFAULT_COLORS,
    titles: Sequence[str] | None = None,
) -> bytes:
    """PNG with a row for each example: image, truth, prediction.

    Args:
        images: uint8 [H, W, 3] each, of any sizes.
        truths: uint8 [H, W] of class ids each, of the image's size.
        predictions: the same.
        colors: (red, green, blue) of each class id.
        titles: One for each example.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: it would open windows, keep every figure, and is not for threads.
    rows = len(images)
    figure = Figure(figsize=(9, max(3.0, 3.0 * rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(rows, 1), 3, squeeze=False)
    for row, (image, truth, prediction) in enumerate(zip(images, truths, predictions, strict=True)):
        shown = (image, overlay(image, truth, colors), overlay(image, prediction, colors))
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
