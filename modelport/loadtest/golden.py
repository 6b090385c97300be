"""The questions of a load test, and which answers are right.

A fast wrong answer is worth nothing: every answer is held against the golden files of the release that gave it, with
that release's own tolerances.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelport.contract import TASKS
from modelport.errors import BadInput
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

    @classmethod
    def load(cls, folders: Sequence[Path]) -> "Golden":
        """Read release folders, whose digests are verified.

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
        return cls(releases, common, tuple(output.name for output in TASKS[tasks.pop()].outputs))

    def problem(self, question: Question, outputs: Outputs, release: str | None = None) -> str:
        """What is wrong with an answer; empty when it is right.

        Args:
            release: digest that the answer names; None where the protocol names none: any of the releases will do.
        """
        if release is not None and release not in self.releases:
            return f"answered by release {release[:12]}, which this run does not expect"
        candidates = [self.releases[release]] if release else self.releases.values()
        problems = [
            "; ".join(compare(outputs, question.expected[each.digest], each.manifest.tolerances[FP32]))
            for each in candidates
        ]
        return min(problems, key=len)


def gateway_outputs(answer: Mapping[str, Any]) -> tuple[str, Outputs]:
    """Release digest and tensors of the gateway's JSON.

    Raises:
        KeyError, TypeError, ValueError, BadInput: it is not such an answer.
    """
    mask = decode_mask(base64.b64decode(answer["mask"], validate=True), classes=len(answer["classes"]))
    return answer["release"], {"mask": mask, "coverage": np.asarray([answer["coverage"]], np.float32)}
