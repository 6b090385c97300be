"""A release's graphs as files for use elsewhere, with a manifest of their hashes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modelport.contract import Precision, step_names
from modelport.errors import BadInput
from modelport.release.manifest import FP32, INT8, canonical_json, sha256
from modelport.release.openvino import OpenVinoGraph, write_openvino
from modelport.release.pipeline import NETWORK
from modelport.release.replay import Tolerances, tolerances_for
from modelport.release.runtime import Graph, Network
from modelport.release.store import Release
from modelport.release.tensorrt import build_plan
from modelport.release.variants import Calibration, calibrated, check_network, golden_of, graphs_of

EXPORT_FILE = "export.json"
"""Manifest of a folder of exported files."""
_PLAN = ".plan"


class Format(StrEnum):
    """What a network step is written as."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


@dataclass(frozen=True)
class Written:
    """A folder of files for use elsewhere."""

    folder: Path
    files: Sequence[str]
    """Names, without that of the manifest."""
    remark: str | None = None
    """What the user must know or still do."""


def write_format(
    release: Release, kind: Format, precision: Precision, folder: Path, calibration: Calibration | None = None
) -> Written:
    """Write a release's steps to a folder: the network in a format and precision, the steps around it as ONNX.

    A folder that holds the same already is written anew; plans of this graph for other GPUs stay in it.

    What is written answers the golden samples as torch, within the precision's tolerances; of a TensorRT plan that can
    only be told for the graph that it is built from.

    Args:
        calibration: for TensorRT in int8, which needs ranges without zero points; the release's own have some.

    Raises:
        BadInput: the release does not carry the precision, the format does not have it, the folder holds something
            else, or what came out does not answer as torch.
        Unavailable: a plan cannot be built on this machine. What is needed to build it elsewhere is in the folder.
    """
    _check_precision(release, kind, precision)
    earlier = _earlier(folder, release, kind, precision)
    steps = graphs_of(release)
    files = {f"{step}.onnx": data for step, data in steps.items() if step != NETWORK}
    files["model.yaml"] = release.read("model.yaml")
    folder.mkdir(parents=True, exist_ok=True)
    for name in earlier:
        if not name.endswith(_PLAN):
            (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    names, remark = [*files], None
    match kind:
        case Format.ONNX:
            graph = release.graph(NETWORK, precision)
            _check(release, Graph(graph), precision, "the ONNX network")
            names.append(_write(folder / f"{NETWORK}.onnx", graph))
        case Format.OPENVINO:
            graph = release.graph(NETWORK, FP32 if precision is Precision.FP16 else precision)
            written = write_openvino(graph, folder / NETWORK, half=precision is Precision.FP16)
            _check(release, OpenVinoGraph(written[0]), precision, "the OpenVINO network")
            names += [path.name for path in written]
        case Format.TENSORRT:
            graph = steps[NETWORK] if calibration is None else calibrated(steps, calibration, symmetric=True)
            _check(release, Graph(graph), precision, "the graph for TensorRT")
            names.append(_write(folder / f"{NETWORK}.onnx", graph))
            for name in earlier:
                if name.startswith(f"{NETWORK}-{sha256(graph)[:12]}-") and (folder / name).is_file():
                    names.append(name)
                elif name.endswith(_PLAN):
                    (folder / name).unlink(missing_ok=True)
            # First without the plan: whoever builds it elsewhere needs all the rest.
            _write_manifest(folder, release, kind, precision, names)
            plan, target = build_plan(
                folder / f"{NETWORK}.onnx", release.pipeline().steps[NETWORK], precision, sha256(graph)
            )
            names = [*dict.fromkeys((*names, plan.name))]
            remark = f"the plan is good for TensorRT {target.tensorrt} on {target.gpu} only, and was not compared"
    _write_manifest(folder, release, kind, precision, names)
    return Written(folder, names, remark)


def _check_precision(release: Release, kind: Format, precision: Precision) -> None:
    if kind is Format.ONNX and precision is Precision.FP16:
        remedy = "engines make 16 bits of the fp32 graph where they run; openvino and tensorrt can be written in fp16"
        raise BadInput("is not written in fp16", key="--format onnx", remedy=remedy)
    if kind is not Format.TENSORRT and precision is Precision.INT8:
        release.graph_hashes(INT8)  # says what to do where the release does not carry it


def _earlier(folder: Path, release: Release, kind: Format, precision: Precision) -> Sequence[str]:
    """Files that an earlier export of the very same wrote into a folder; a folder with anything else is refused."""
    others = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not others:
        return ()
    if EXPORT_FILE not in others:
        raise BadInput("holds other files", file=folder, key="--out", remedy="name a new folder")
    try:
        document = json.loads((folder / EXPORT_FILE).read_bytes())
        model, digest, *made = (str(document[key]) for key in ("model", "release", "format", "precision"))
        files = [str(name) for name in document["files"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInput(
            f"does not say what is exported here: {error}",
            file=folder / EXPORT_FILE,
            key="--out",
            remedy="name a new folder",
        ) from None
    if (model, digest, *made) != (release.manifest.model, release.digest, kind, precision):
        raise BadInput(
            f"holds release {digest[:12]} of {model} already, as {' '.join(made)}",
            file=folder,
            key="--out",
            remedy="name a new folder",
        )
    # Somebody may have written the list by hand: it must not lead out of the folder.
    return [name for name in files if name == Path(name).name]


def _check(release: Release, network: Network, precision: Precision, what: str) -> None:
    manifest = release.manifest
    tolerances: Tolerances | None = manifest.tolerances.get(precision)
    if tolerances is None:
        tolerances = tolerances_for(manifest.task, manifest.thresholds, [precision])[precision]
    check_network(network, graphs_of(release), manifest.task, golden_of(release), tolerances, what)


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return path.name


def _write_manifest(folder: Path, release: Release, kind: Format, precision: Precision, names: Sequence[str]) -> None:
    made = {name: (folder / name).read_bytes() for name in sorted(names)}
    libraries = ("onnxruntime", "openvino") if kind is Format.OPENVINO else ("onnxruntime",)
    (given,) = step_names(release.manifest.task)[NETWORK].outputs
    document: dict[str, Any] = {
        "schema": "modelport.export/1",
        "model": release.manifest.model,
        "release": release.digest,
        "format": kind,
        "precision": precision,
        "network": {"input": "input", "output": given},
        "files": {name: {"sha256": sha256(data), "size": len(data)} for name, data in made.items()},
        "versions": {name: version(name) for name in libraries},
    }
    (folder / EXPORT_FILE).write_bytes(canonical_json(document) + b"\n")
