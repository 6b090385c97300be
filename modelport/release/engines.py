"""Every way in which a release's network step can be computed here, loaded and ready to be compared."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract import IMAGE, step_names
from modelport.release.manifest import FP32, INT8
from modelport.release.openvino import OpenVinoGraph, write_openvino
from modelport.release.pipeline import NETWORK
from modelport.release.runtime import Graph, Network, run_steps
from modelport.release.store import Release


@dataclass(frozen=True)
class Engine:
    """One way to compute the network step."""

    name: str
    """Such as ``openvino int8``."""
    size: int
    """Bytes of the network step, as it is stored."""
    network: Network
    predict: Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]]
    """The whole pipeline; around the network step it is the same graphs in ONNX Runtime for all ways."""


@dataclass(frozen=True)
class NotHere:
    """A way that cannot be had on this machine or with this release."""

    name: str
    why: str


def engines(release: Release, threads: int = 1) -> list[Engine | NotHere]:
    """ONNX Runtime with fp32 first, then every other way."""
    task = release.manifest.task
    around = {step: Graph(release.graph(step), threads) for step in step_names(task) if step != NETWORK}

    def engine(name: str, size: int, network: Network) -> Engine:
        steps = [network if step == NETWORK else around[step] for step in step_names(task)]
        return Engine(name, size, network, lambda image: run_steps(steps, image))

    found: list[Engine | NotHere] = []
    for precision in (FP32, INT8):
        if precision not in release.manifest.precisions:
            make = f"`modelport export {release.manifest.model} {release.digest[:12]} --precision int8`"
            why = f"is not in this release; {make} makes one that has it"
            found += [NotHere(f"{kind} {precision}", why) for kind in ("onnx", "openvino")]
            continue
        graph = release.graph(NETWORK, precision)
        found.append(engine(f"onnx {precision}", len(graph), Graph(graph, threads)))
        found.append(_openvino(graph, precision, threads, engine))
    found += [
        NotHere(f"tensorrt {precision}", "is built and measured on the GPU that will run it: `--format tensorrt` there")
        for precision in ("fp16", INT8)
    ]
    return found


def network_inputs(release: Release) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]:
    """The golden images, and what preprocessing makes of each: float32 [1, 3, S, S]."""
    from modelport.imaging import decode

    preprocess = Graph(release.graph("preprocess"))
    images = [decode(golden.data) for golden in release.golden()]
    return images, [preprocess.run({IMAGE: image})["input"] for image in images]


def _openvino(
    graph: bytes, precision: str, threads: int, engine: Callable[[str, int, Network], Engine]
) -> Engine | NotHere:
    name = f"openvino {precision}"
    try:
        with tempfile.TemporaryDirectory(prefix="modelport-openvino-") as folder:
            paths = write_openvino(graph, Path(folder, NETWORK), half=False)
            size = sum(path.stat().st_size for path in paths)
        return engine(name, size, OpenVinoGraph(graph, threads))
    except ImportError:
        return NotHere(name, "needs the package openvino, which is not installed")
    except RuntimeError as error:  # what OpenVINO raises, whatever is wrong
        return NotHere(name, f"cannot be loaded: {str(error).strip().splitlines()[-1]}")
