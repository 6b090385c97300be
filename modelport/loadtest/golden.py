"""The questions of a load test, and which answers are right.

A fast wrong answer is worth nothing: every answer is held against the golden files of the release that gave it, with
that release's own tolerances.
"""

import base64
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelport.contract import TASKS, Task
from modelport.errors import BadInput, ModelportError
from modelport.imaging import Pixels, decode, decode_mask
from modelport.release import FP32, Release, compare

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
"""Named tensors of an answer, as the design's table of tasks names them."""


@dataclass(frozen=True)
class Question:
    """An image that users send."""

    name: str
    data: bytes
    """The file, as a user would upload it."""
    image: Pixels
    """The same, decoded: uint8 [H, W, 3]."""
    expected: dict[str, Outputs] = field(default_factory=dict[str, Outputs])
    """Right outputs by release digest."""

    @property
    def media_type(self) -> str:
        """For uploads."""
        return "image/png" if self.name.endswith(".png") else "image/jpeg"


@dataclass(frozen=True)
class Golden:
    """Golden images of the releases that may answer."""

    releases: dict[str, Release]
    questions: tuple[Question, ...]
    output_names: tuple[str, ...]
    """Outputs that clients see for the releases' task."""
    fetch: Callable[[str], Release] | None = None
    """Reads a release by its digest that is promoted while the load test runs; None: no such answer is expected."""
    _reading: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Hundreds of answers may name a new release at once; it is read once."""

    @classmethod
    def load(cls, folders: Sequence[Path], fetch: Callable[[str], Release] | None = None) -> "Golden":
        """Read release folders, whose digests are verified.

        Args:
            folders: of the releases that are known beforehand.
            fetch: see the attribute.

        Raises:
            BadInput: a folder is damaged, or the releases have no golden image, or no task, in common.
        """
        opened = [Release.open(folder) for folder in folders]
        releases = {release.digest: release for release in opened}
        questions: dict[bytes, Question] = {}
        for release in releases.values():
            for sample in release.golden():
                question = questions.setdefault(sample.data, Question(sample.name, sample.data, decode(sample.data)))
                question.expected[release.digest] = sample.expected
        # Only images that every one of the releases knows: then the answer of any of them can be judged.
        common = tuple(question for question in questions.values() if len(question.expected) == len(releases))
        tasks = {release.manifest.task for release in releases.values()}
        if not common or len(tasks) != 1:
            raise BadInput("the releases have no golden images in common", key="--release")
        return cls(releases, common, tuple(output.name for output in TASKS[tasks.pop()].outputs), fetch)

    def problem(self, question: Question, outputs: Outputs, release: str | None = None, precision: str = FP32) -> str:
        """What is wrong with an answer; empty when it is right.

        Args:
            release: digest that the answer names; None where the protocol names none: any of the releases will do.
            precision: arithmetic that the network ran with, whose tolerances apply.
        """
        if release is not None and release not in self.releases and (stranger := self._admit(release)):
            return stranger
        candidates = [self.releases[release]] if release else self.releases.values()
        return min((_problem(question, outputs, each, precision) for each in candidates), key=len)

    def _admit(self, digest: str) -> str:
        """Get to know a release that an answer names first; why that cannot be, or empty."""
        if self.fetch is None:
            return f"answered by release {digest[:12]}, which this run does not expect"
        with self._reading:
            return "" if digest in self.releases else self._read(digest, self.fetch)

    def _read(self, digest: str, fetch: Callable[[str], Release]) -> str:
        short = digest[:12]
        try:
            release = fetch(digest)
        except ModelportError as error:
            return f"answered by release {short}, which cannot be read: {error}"
        expected = {sample.data: sample.expected for sample in release.golden()}
        if any(question.data not in expected for question in self.questions):
            return f"answered by release {short}, whose golden images are others: nobody knows what is right"
        for question in self.questions:
            question.expected[digest] = expected[question.data]
        self.releases[digest] = release
        return ""


def _problem(question: Question, outputs: Outputs, release: Release, precision: str) -> str:
    tolerances = release.manifest.tolerances.get(precision)
    if tolerances is None:
        return f"release {release.digest[:12]} ran with {precision}, for which it states no tolerance"
    return "; ".join(compare(outputs, question.expected[release.digest], tolerances))


class GatewayAnswer(NamedTuple):
    """What the gateway's JSON says, as the tensors that it was made of."""

    release: str
    """Digest of the release that answered."""
    outputs: Outputs
    precision: str
    """Arithmetic that it ran with."""


def gateway_outputs(answer: Mapping[str, Any]) -> GatewayAnswer:
    """Read the gateway's JSON; every number of it is exactly the model's.

    Raises:
        KeyError, TypeError, ValueError, BadInput: it is not such an answer, or it contradicts itself.
    """
    outputs = _READERS[Task(answer["task"])](answer)
    return GatewayAnswer(answer["release"], outputs, answer["precision"])


def _segment(answer: Mapping[str, Any]) -> Outputs:
    mask = decode_mask(base64.b64decode(answer["mask"], validate=True), classes=len(answer["classes"]))
    return {"mask": mask, "coverage": np.asarray([answer["coverage"]], np.float32)}


def _detect(answer: Mapping[str, Any]) -> Outputs:
    found = answer["detections"]
    for detection in found:
        _check_label(answer, detection)
    return {
        "boxes": np.asarray([detection["box"] for detection in found], np.float32).reshape(-1, 4),
        "scores": np.asarray([detection["score"] for detection in found], np.float32),
        "labels": np.asarray([detection["class_id"] for detection in found], np.int64),
    }


def _classify(answer: Mapping[str, Any]) -> Outputs:
    probabilities = [answer["probabilities"][info["name"]] for info in answer["classes"]]
    _check_label(answer, answer)
    confidence = answer["confidence"]
    if confidence != max(probabilities) or probabilities[answer["class_id"]] != confidence:
        raise ValueError(f"{answer['label']} is not the most probable class")
    if answer["unsure"] != (confidence < answer["threshold"]):
        raise ValueError(f"confidence {confidence:g} and threshold {answer['threshold']:g} contradict `unsure`")
    return {"probabilities": np.asarray(probabilities, np.float32)}


_READERS: dict[Task, Callable[[Mapping[str, Any]], Outputs]] = {
    Task.SEGMENT: _segment,
    Task.DETECT: _detect,
    Task.CLASSIFY: _classify,
}


def _check_label(answer: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    name = answer["classes"][named["class_id"]]["name"]
    if named["label"] != name:
        raise ValueError(f"class {named['class_id']} is {name}, and the answer says {named['label']}")
