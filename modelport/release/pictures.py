"""What a release answers on images that it was not trained on, as a picture in the record of its training run."""

from typing import TYPE_CHECKING

from modelport.connection import Connection
from modelport.release.build import BuiltRelease
from modelport.release.runtime import Runtime
from modelport.release.store import Release

if TYPE_CHECKING:
    from modelport.training import TrainingResult

PICTURED = 6
"""Examples of the selection split in the picture of predictions beside truth."""


def keep_picture(connection: Connection, result: "TrainingResult", built: BuiltRelease) -> None:
    """Show in MLflow what the exported graphs, not torch, answer on examples of the selection split.

    Nothing is done where the training has no MLflow run.

    Raises:
        Unavailable: MLflow is away. The release is complete without the picture.
    """
    from modelport.training import log_picture
    from modelport.training.pictures import beside, draw_outputs, draw_truth

    if not result.mlflow_run_id:
        return
    task, classes, split = result.spec.task, result.spec.classes, result.dataset.selection
    shown = range(min(PICTURED, len(split)))
    runtime = Runtime(Release.open(built.path, built.digest))
    images = [split.image(index) for index in shown]
    rows = [
        (
            image,
            draw_truth(task, image, split.target(index), classes),
            draw_outputs(task, image, runtime.predict(image), classes),
        )
        for index, image in zip(shown, images, strict=True)
    ]
    png = beside(rows, titles=[split.ids[index] for index in shown])
    log_picture(connection, result.mlflow_run_id, "selection", png)
