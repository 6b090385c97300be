"""What an answer looks like, one function per task. A new task is a new entry in `RENDERERS`."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from modelport.contract import Task
from modelport.imaging import encode_png, overlay
from modelport.serving.state import LoadedRelease


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class Milliseconds(_Schema):
    """Where the time went."""

    decode: float = Field(description="From the image's bytes to its pixels.")
    inference: float = Field(description="Triton's answer, with the way there and back.")
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
    request_id: str = Field(description="Names this request in logs and records.")
    width: int = Field(description="Pixels of the image, upright.")
    height: int = Field(description="Pixels of the image, upright.")
    milliseconds: Milliseconds


class SegmentPrediction(Prediction):
    """Answer of a segmentation."""

    task: Literal[Task.SEGMENT] = Task.SEGMENT
    mask: str = Field(
        description="Base64 of a grey PNG of the image's size. With two classes a pixel is 0 (background) or 255; with "
        "more it is the class id."
    )
    coverage: float = Field(description="Share of the image that is not background, 0 to 1.")
    classes: list[ClassInfo]
    overlay: str | None = Field(
        default=None, description="Base64 of a PNG of the image with its classes tinted; only when asked for."
    )


@dataclass(frozen=True)
class Answer:
    """One rendered answer."""

    schema: type[Prediction]
    fields: Mapping[str, Any]
    """Fields of the schema that the task adds."""
    summary: Mapping[str, float]
    """Numbers for the prediction record."""


Outputs = Mapping[str, NDArray[Any]]
Renderer = Callable[[Outputs, NDArray[np.uint8], LoadedRelease, bool], Answer]


def segment(outputs: Outputs, image: NDArray[np.uint8], release: LoadedRelease, with_overlay: bool) -> Answer:
    """Answer from mask uint8 [H, W] and coverage float32 [1]."""
    mask = outputs["mask"].astype(np.uint8, copy=False)
    coverage = float(outputs["coverage"].reshape(-1)[0])
    binary = len(release.classes) == 2
    visible = (mask > 0).astype(np.uint8) * np.uint8(255) if binary else mask
    fields: dict[str, Any] = {
        "mask": _base64(encode_png(visible)),
        "coverage": coverage,
        "classes": class_infos(release),
    }
    if with_overlay:
        tinted = overlay(image, mask, [info.rgb for info in release.classes])
        fields["overlay"] = _base64(encode_png(tinted))
    return Answer(SegmentPrediction, fields, {"coverage": coverage})


RENDERERS: Mapping[Task, Renderer] = {Task.SEGMENT: segment}
"""How each task's outputs become an answer."""


def class_infos(release: LoadedRelease) -> list[ClassInfo]:
    """Label map of a release."""
    return [ClassInfo(id=i, name=info.name, color=info.color) for i, info in enumerate(release.classes)]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
