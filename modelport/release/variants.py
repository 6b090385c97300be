"""Further arithmetics of a release's network step: made from its ONNX graph, and held against torch like the first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract import IMAGE, Task, step_names
from modelport.data import Split
from modelport.errors import BadInput
from modelport.imaging import decode
from modelport.release.manifest import INT8, FileEntry, ReleaseManifest, canonical_json, sha256
from modelport.release.pipeline import NETWORK
from modelport.release.quantize import METHOD, quantize
from modelport.release.replay import Tolerances, compare, tolerances_for
from modelport.release.runtime import Graph, Network, run_steps
from modelport.release.store import Release, write_release

CALIBRATION_IMAGES = 64
"""Images that ranges are taken from: with more, the ranges of a network hardly grow any further."""
INT8_FILE = f"{NETWORK}/{INT8}.onnx"
CALIBRATION_FILE = f"{NETWORK}/{INT8}.calibration.json"

Sample = tuple[str, NDArray[np.uint8], Mapping[str, NDArray[Any]]]
"""A golden sample: its name, its image uint8 [H, W, 3], torch's outputs."""


@dataclass(frozen=True)
class Calibration:
    """Images of the training split that 8-bit ranges are taken from."""

    images: Sequence[NDArray[np.uint8]]
    hashes: Sequence[str]
    """sha256 of each image's file."""

    @classmethod
    def of(cls, split: Split, learned: frozenset[str] | None = None) -> "Calibration":
        """Images spread evenly over a training split.

        Args:
            split: the training split; held-out images must not decide anything of a release.
            learned: sha256 of the images that the release learned from; others are not taken. None takes any.

        Raises:
            BadInput: the release learned from none of them.
        """
        usable = [index for index in range(len(split)) if learned is None or split.entry(index).sha256 in learned]
        if not usable:
            raise BadInput(
                "the release learned from none of the images in this training split",
                key="--data",
                remedy="give the dataset that it was trained on: `--data s3://BUCKET/datasets/NAME` or a folder",
            )
        count = min(CALIBRATION_IMAGES, len(usable))
        chosen = [usable[int(place)] for place in np.linspace(0, len(usable) - 1, count).round()]
        return cls([split.image(index) for index in chosen], [split.entry(index).sha256 for index in chosen])


def make_int8(
    graphs: Mapping[str, bytes], task: Task, calibration: Calibration, golden: Sequence[Sample], tolerances: Tolerances
) -> dict[str, bytes]:
    """Files of a release's INT8 variant: the graph, and what it was calibrated with.

    Args:
        graphs: the release's ONNX graphs by step.
        golden: what the variant must answer.
        tolerances: of INT8.

    Raises:
        BadInput: it cannot be made, or does not answer as torch within the tolerances.
    """
    network = calibrated(graphs, calibration)
    check_network(Graph(network), graphs, task, golden, tolerances, "the int8 network")
    record = {"images": list(calibration.hashes), "method": METHOD, "onnxruntime": version("onnxruntime")}
    return {INT8_FILE: network, CALIBRATION_FILE: canonical_json(record)}


def calibrated(graphs: Mapping[str, bytes], calibration: Calibration, *, symmetric: bool = False) -> bytes:
    """The network step in INT8; `symmetric` as TensorRT takes it (see `quantize`)."""
    preprocess = Graph(graphs["preprocess"])
    inputs = [preprocess.run({IMAGE: image})["input"] for image in calibration.images]
    return quantize(graphs[NETWORK], inputs, symmetric=symmetric)


def check_network(
    network: Network,
    graphs: Mapping[str, bytes],
    task: Task,
    golden: Sequence[Sample],
    tolerances: Tolerances,
    what: str,
) -> None:
    """Hold another network step against torch, between the same steps before and after it.

    Args:
        network: the network step, loaded in whatever engine.
        what: how messages call it.

    Raises:
        BadInput: it fails, or does not answer as torch within the tolerances.
    """
    steps = {step: network if step == NETWORK else Graph(graphs[step]) for step in step_names(task)}
    try:
        problems = _problems(steps, task, golden, tolerances)
    except Exception as error:  # the exceptions of engines share no base class
        raise _refused(f"{what} fails: {error}") from error
    if problems:
        raise _refused(f"{what} does not answer as torch: {'; '.join(problems)}")


def with_int8(release: Release, split: Split, place: Path) -> Release:
    """The release that carries INT8 beside what `release` has, in the folder ``<place>/<digest>``.

    It is of the same training run, and a release of its own with all of a release's life: gate, promotion. The same
    images give the same release.

    Args:
        split: the training split; only images that the release learned from are taken.

    Raises:
        BadInput: it has INT8 already, or INT8 does not answer as torch within its tolerances.
    """
    made = release.manifest
    if INT8 in made.variants:
        raise BadInput(f"release {release.digest[:12]} carries int8 already", remedy="gate and promote it as it is")
    calibration = Calibration.of(split, release.trained_on())
    tolerances = tolerances_for(made.task, made.thresholds, (INT8,))
    added = make_int8(graphs_of(release), made.task, calibration, golden_of(release), tolerances[INT8])
    files = {path: release.read(path) for path in made.files} | added
    manifest = made.model_copy(
        update={
            "files": {path: FileEntry(sha256=sha256(data), size=len(data)) for path, data in sorted(files.items())},
            "tolerances": {**made.tolerances, **tolerances},
            "variants": {**made.variants, INT8: INT8_FILE},
        }
    )
    return write_release(ReleaseManifest.parse(manifest.to_bytes(), place), files, place)


def graphs_of(release: Release) -> dict[str, bytes]:
    """ONNX of each step in fp32."""
    return {step: release.graph(step) for step in step_names(release.manifest.task)}


def golden_of(release: Release) -> list[Sample]:
    """The golden samples, decoded."""
    return [(each.name, decode(each.data), each.expected) for each in release.golden()]


def _problems(steps: Mapping[str, Network], task: Task, golden: Sequence[Sample], tolerances: Tolerances) -> list[str]:
    """What is wrong with a variant's answers, alone and in a batch; none when it may be served."""
    problems: list[str] = []
    alone: list[dict[str, NDArray[Any]]] = []
    for name, image, expected in golden:
        outputs = run_steps(steps.values(), image)
        problems += [f"{name}: {problem}" for problem in compare(outputs, expected, tolerances)]
        alone.append(outputs)
    (given,) = step_names(task)[NETWORK].outputs
    together = steps[NETWORK].run({"input": np.concatenate([outputs["input"] for outputs in alone])})[given]
    apart = np.concatenate([outputs[given] for outputs in alone])
    # On the average: where a value lies between two steps of 8 bits, the last digit of a float decides.
    apart_by = float(np.mean(np.abs(together - apart)))
    if not apart_by <= 1e-3 * max(1.0, float(np.max(np.abs(apart)))):
        problems.append(f"in a batch, {given} differ by {apart_by:.2g} on the average")
    return problems


def _refused(message: str) -> BadInput:
    return BadInput(
        message,
        key="tolerances",
        remedy="nothing was made; use fp32, or train on more varied images and try again",
    )
