"""What an answer looks like, one function per task: the same over the gateway, on its page and on the command line.

A model's outputs are held against what its task promises before anything is made of them: numbers that are none, or a
class that the label map does not have, are a failure of the model and never an answer.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from modelport.contract import Task
from modelport.contract.spec import Precision
from modelport.contract.tasks import COVERAGE_SLACK
from modelport.errors import ModelportError
from modelport.imaging import Pixels, draw_boxes, draw_caption, encode_png, overlay
from modelport.serving.state import LoadedRelease

UNSURE = "unsure"
"""Threshold of a classification's release, below which the answer is `unsure`; a release without it never is."""

_PROBABILITY_SUM = 0.02
"""How far the sum of probabilities may be from 1: half precision rounds, and scores that are none miss it by far."""


class WrongOutputs(ModelportError):
    """A model's outputs are not what its task promises."""


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class Milliseconds(_Schema):
    """Where the time went."""

    decode: float = Field(description="From the image's bytes to its pixels.")
    inference: float = Field(description="The model's answer, with the way there and back.")
    total: float = Field(description="From the last byte of the upload to the finished answer.")


class ClassInfo(_Schema):
    """One class of the label map."""

    id: int
    name: str
    color: str = Field(description="Display colour, #rrggbb.")


class Prediction(_Schema):
    """What every answer says."""

    model: str
    release: str = Field(description="Digest of the release that gave this answer.")
    precision: Precision = Field(description="Arithmetic that the release ran with.")
    request_id: str = Field(description="Names this request in logs and records.")
    width: int = Field(description="Pixels of the image, upright.")
    height: int = Field(description="Pixels of the image, upright.")
    milliseconds: Milliseconds


_OVERLAY = "Base64 of a PNG of the image's size that shows the answer {}; only when asked for."


class SegmentPrediction(Prediction):
    """Answer of a segmentation."""

    task: Literal[Task.SEGMENT]
    mask: str = Field(
        description="Base64 of a grey PNG of the image's size. With two classes a pixel is 0 (background) or 255; with "
        "more it is the class id."
    )
    coverage: float = Field(description="Share of the image that is not background, 0 to 1.")
    classes: list[ClassInfo]
    overlay: str | None = Field(default=None, description=_OVERLAY.format("as tinted classes"))


class Detection(_Schema):
    """One object that was found."""

    label: str = Field(description="Name of its class.")
    class_id: int = Field(description="Position of the class in `classes`.")
    score: float = Field(description="How sure the model is, 0 to 1.")
    box: tuple[float, float, float, float] = Field(
        description="Left, top, right, bottom in pixels of the upright image."
    )


class DetectPrediction(Prediction):
    """Answer of a detection."""

    task: Literal[Task.DETECT]
    detections: list[Detection] = Field(description="What was found, the surest first; empty when nothing was.")
    classes: list[ClassInfo]
    overlay: str | None = Field(default=None, description=_OVERLAY.format("as boxes with label and score"))


class ClassifyPrediction(Prediction):
    """Answer of a classification."""

    task: Literal[Task.CLASSIFY]
    label: str = Field(description="Name of the most probable class, also when the answer is unsure.")
    class_id: int = Field(description="Position of that class in `classes`.")
    confidence: float = Field(description="Its probability, 0 to 1.")
    unsure: bool = Field(description="Whether the confidence is below the threshold: let a person decide.")
    threshold: float = Field(description="Confidence below which this release is unsure; 0: it never is.")
    probabilities: dict[str, float] = Field(description="By name of the class, in order of ids; they sum up to 1.")
    classes: list[ClassInfo]
    overlay: str | None = Field(default=None, description=_OVERLAY.format("as a caption"))


AnyPrediction: TypeAlias = Annotated[
    SegmentPrediction | DetectPrediction | ClassifyPrediction, Field(discriminator="task")
]
"""The answer of any task; `task` says which it is."""


def parse_prediction(data: bytes | str) -> SegmentPrediction | DetectPrediction | ClassifyPrediction:
    """Read an answer's JSON.

    Raises:
        pydantic.ValidationError: it is none.
    """
    adapter: TypeAdapter[SegmentPrediction | DetectPrediction | ClassifyPrediction] = TypeAdapter(AnyPrediction)
    return adapter.validate_json(data)


@dataclass(frozen=True)
class Answer:
    """One rendered answer."""

    schema: type[SegmentPrediction] | type[DetectPrediction] | type[ClassifyPrediction]
    fields: Mapping[str, Any]
    """Fields of the schema that the task adds."""
    summary: Mapping[str, float]
    """Numbers for the prediction record."""

    def complete(
        self, *, model: str, release: LoadedRelease, image: Pixels, request_id: str, milliseconds: Milliseconds
    ) -> SegmentPrediction | DetectPrediction | ClassifyPrediction:
        """The whole answer."""
        height, width = image.shape[:2]
        common = {"model": model, "release": release.digest, "precision": release.precision, "request_id": request_id}
        size = {"width": width, "height": height, "milliseconds": milliseconds}
        return self.schema.model_validate({**common, **size, "task": release.task, **self.fields})


Outputs: TypeAlias = Mapping[str, NDArray[Any]]
"""Named tensors, as the table of tasks names them."""
Renderer: TypeAlias = Callable[[Outputs, Pixels, LoadedRelease, bool], Answer]


def render(task: Task, outputs: Outputs, image: Pixels, release: LoadedRelease, with_overlay: bool) -> Answer:
    """Answer of a model's outputs.

    Args:
        task: what the model answers.
        outputs: named tensors of the task; others are not looked at.
        image: uint8 [H, W, 3], upright, that the model was asked about.
        release: which gave them; its label map and thresholds say what they mean.
        with_overlay: whether to draw the answer into the image, too.

    Raises:
        WrongOutputs: they are not what the task promises.
    """
    return RENDERERS[task](outputs, image, release, with_overlay)


def segment(outputs: Outputs, image: Pixels, release: LoadedRelease, with_overlay: bool) -> Answer:
    """Answer from mask uint8 [H, W] and coverage float32 [1]."""
    height, width = image.shape[:2]
    mask = _tensor(outputs, "mask", np.uint8, (height, width))
    coverage = float(_tensor(outputs, "coverage", np.float32, (1,))[0])
    _within("coverage", np.asarray(coverage))
    _known_classes("mask", mask, release)
    share = float(np.mean(mask > 0))
    if abs(coverage - share) > COVERAGE_SLACK:
        raise WrongOutputs(f"coverage is {coverage:.3f}, but {share:.3f} of the mask is not background")
    visible = mask * np.uint8(255) if len(release.classes) == 2 else mask
    fields: dict[str, Any] = {
        "mask": _base64(encode_png(visible)),
        "coverage": coverage,
        "classes": class_infos(release),
    }
    if with_overlay:
        fields["overlay"] = _base64(encode_png(overlay(image, mask, [info.rgb for info in release.classes])))
    return Answer(SegmentPrediction, fields, {"coverage": coverage})


def detect(outputs: Outputs, image: Pixels, release: LoadedRelease, with_overlay: bool) -> Answer:
    """Answer from boxes float32 [K, 4] (left, top, right, bottom in pixels), scores float32 [K], labels int64 [K]."""
    boxes = _tensor(outputs, "boxes", np.float32, (-1, 4))
    scores = _tensor(outputs, "scores", np.float32, (len(boxes),))
    labels = _tensor(outputs, "labels", np.int64, (len(boxes),))
    _within("scores", scores)
    _known_classes("labels", labels, release)
    if not np.isfinite(boxes).all():
        raise WrongOutputs("boxes holds numbers that are none")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise WrongOutputs("boxes holds one whose right or lower edge comes before its left or upper one")
    order = np.argsort(-scores, kind="stable")
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    detections = [
        Detection(
            label=release.classes[int(label)].name,
            class_id=int(label),
            score=float(score),
            box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        )
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    fields: dict[str, Any] = {"detections": detections, "classes": class_infos(release)}
    if with_overlay:
        drawn = draw_boxes(
            image,
            boxes,
            captions=[f"{found.label} {found.score:.2f}" for found in detections],
            colors=[release.classes[found.class_id].rgb for found in detections],
        )
        fields["overlay"] = _base64(encode_png(drawn))
    return Answer(DetectPrediction, fields, {"count": len(detections), "top_score": float(scores.max(initial=0.0))})


def classify(outputs: Outputs, image: Pixels, release: LoadedRelease, with_overlay: bool) -> Answer:
    """Answer from probabilities float32 [C], one for each class of the label map."""
    probabilities = _tensor(outputs, "probabilities", np.float32, (len(release.classes),))
    _within("probabilities", probabilities)
    total = float(probabilities.sum(dtype=np.float64))
    if abs(total - 1) > _PROBABILITY_SUM:
        raise WrongOutputs(f"probabilities sum up to {total:.3g}, not to 1")
    best = int(probabilities.argmax())
    chosen, confidence = release.classes[best], float(probabilities[best])
    threshold = release.thresholds.get(UNSURE, 0.0)
    unsure = confidence < threshold
    fields: dict[str, Any] = {
        "label": chosen.name,
        "class_id": best,
        "confidence": confidence,
        "unsure": unsure,
        "threshold": threshold,
        "probabilities": {info.name: float(value) for info, value in zip(release.classes, probabilities, strict=True)},
        "classes": class_infos(release),
    }
    if with_overlay:
        text = f"{'unsure: ' if unsure else ''}{chosen.name} {confidence:.0%}"
        fields["overlay"] = _base64(encode_png(draw_caption(image, text, chosen.rgb)))
    return Answer(ClassifyPrediction, fields, {"class_id": best, "confidence": confidence, "unsure": int(unsure)})


RENDERERS: Mapping[Task, Renderer] = {Task.SEGMENT: segment, Task.DETECT: detect, Task.CLASSIFY: classify}
"""How each task's outputs become an answer. A new task is a new entry."""


def class_infos(release: LoadedRelease) -> list[ClassInfo]:
    """Label map of a release."""
    return [ClassInfo(id=i, name=info.name, color=info.color) for i, info in enumerate(release.classes)]


# --- what a task promises ---------------------------------------------------------------------------------------------


def _tensor(outputs: Outputs, name: str, kind: type[np.generic], shape: Sequence[int]) -> NDArray[Any]:
    """An output of that type and shape (-1 is any size)."""
    found = outputs.get(name)
    if found is None:
        raise WrongOutputs(f"{name} is missing")
    if found.dtype != kind:
        raise WrongOutputs(f"{name} is {found.dtype}, not {np.dtype(kind)}")
    if found.ndim != len(shape) or any(size not in (-1, there) for size, there in zip(shape, found.shape, strict=True)):
        wanted = [size if size >= 0 else "any" for size in shape]
        raise WrongOutputs(f"{name} has shape {list(found.shape)}, not {wanted}".replace("'", ""))
    return found


def _within(name: str, values: NDArray[Any]) -> None:
    # Written so that NaN, which no comparison is true of, is refused.
    if not ((values >= -1e-6) & (values <= 1 + 1e-6)).all():
        raise WrongOutputs(f"{name} holds values that are not between 0 and 1")


def _known_classes(name: str, ids: NDArray[Any], release: LoadedRelease) -> None:
    unknown = ids[(ids < 0) | (ids >= len(release.classes))]
    if unknown.size:
        known = len(release.classes)
        raise WrongOutputs(f"{name} holds class {int(unknown.flat[0])}, but the label map has only {known} classes")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
