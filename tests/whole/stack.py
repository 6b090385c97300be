"""The stack that comes up on one machine: the real program, with what fits on two cores and 14 GiB."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.volumes import DISK
from tests.engine.engine import copy_project

STACK = "here"
MODEL = "polyp_seg"
DATASET = "kvasir_seg"
CALLER = "hospital"
SCIENTISTS, MANAGERS = "data-scientists", "release-managers"
"""Groups of people: who may train, and who may promote. Namespaces: their service accounts stand for people."""

PLATFORM_IMAGE = "docker.io/modelport/platform:dev"
TRITON_IMAGE = "docker.io/modelport/triton-cpu:dev"

REQUESTS = 10_000
"""At least so many are asked while versions change."""
RATE = 45.0
"""Requests a second; two cores serve them beside everything else."""
LOAD_S = int(REQUESTS / RATE * 1.02) + 1

SIDE, LOGITS, SMALLER = 192, 96, 3
"""Of the square that the network sees, and of what it gives; here a third of each: a ninth of the arithmetic."""
EPOCHS = 6
BATCH = 8
MINIMUM = 0.05
"""Of the gate: that the network finds polyps at all. A short training of few images is not good, and need not be."""
MARGIN = -0.5
"""Over the champion: what a second short training learns is a matter of luck."""


def group(namespace: str) -> str:
    """The group that all service accounts of a namespace are in."""
    return f"system:serviceaccounts:{namespace}"


def model(**serve: Any) -> dict[str, Any]:
    """What the stack says of its model; `serve` beside or over what the one server has."""
    return {
        "train": {"workers": 1, "cpus": 0.4, "memory": "3Gi", "head_cpus": 0.2, "head_memory": "3Gi"},
        "serve": {"cpus": 0.2, "memory": "2Gi", **serve},
        "load_test": {"rate": RATE, "seconds": LOAD_S},
    }


TWO_SERVERS: Mapping[str, Any] = {
    "memory": "18Gi",
    "store": {"size": "2Gi", "storage_class": DISK, "cpus": 0.1, "memory": "512Mi"},
    "models": {MODEL: model(replicas=2, cpus=0.1)},
}
"""Of a stack whose model has two servers, and whose object store gets full."""


def settings(kubeconfig: Path, memory: str = "14Gi", **more: Any) -> dict[str, Any]:
    """The stack's configuration, by whole key; `memory` is what all pods together may ask for."""
    found: Mapping[str, Any] = {
        "owner": "tests",
        "image": PLATFORM_IMAGE,
        "triton_image": TRITON_IMAGE,
        "cluster": {
            "kind": "existing",
            "kubeconfig": str(kubeconfig),
            "context": "modelport-test",
            "nodes": {"node": {"cpus": 1.9, "memory": memory}},
        },
        "store": {"size": "4Gi", "cpus": 0.1, "memory": "512Mi"},
        "database": {"size": "1Gi", "cpus": 0.1, "memory": "256Mi"},
        "tracking": {"cpus": 0.1, "memory": "1536Mi"},
        "gateway": {"cpus": 0.1, "memory": "1Gi", "callers": [CALLER]},
        "monitoring": {"enabled": False},
        "operators": {"keda": False},
        "access": {
            "trainer": [group(SCIENTISTS)],
            "promoter": [group(MANAGERS)],
            f"gateway/{CALLER}": [group(MANAGERS)],
        },
        "models": {MODEL: model()},
        **more,
    }
    return {f"modelport:{key}": value for key, value in found.items()}


def write_stack(project: Path, kubeconfig: Path, **more: Any) -> None:
    """Write the stack's file of a project's copy; what Pulumi has noted in it stays."""
    file = project / "stacks" / f"Pulumi.{STACK}.yaml"
    noted: dict[str, Any] = yaml.safe_load(file.read_text()) if file.exists() else {}
    file.write_text(yaml.safe_dump({**noted, "config": settings(kubeconfig, **more)}))


def small_project(source: Path, target: Path) -> Path:
    """A copy of the project with one model, whose training is short.

    Returns:
        The target.
    """
    copy_project(source, target, linked=(".venv", "modelport", "loadtests"))
    for folder in (target / "models").iterdir():
        if folder.name != MODEL:
            shutil.rmtree(folder)
    file = target / "models" / MODEL / "model.yaml"
    text = file.read_text()
    for old, new in (
        (f"    size: {SIDE}", f"    size: {SIDE // SMALLER}"),
        ("    epochs: 72", f"    epochs: {EPOCHS}"),
        ("    batch_size: 16", f"    batch_size: {BATCH}"),
        ("  minimum: 0.8", f"  minimum: {MINIMUM}"),
        ("  margin: -0.01", f"  margin: {MARGIN}"),
    ):
        assert text.count(old) == 1, f"{file} has no line {old!r}"
        text = text.replace(old, new)
    file.write_text(text)
    for config in (target / "models" / MODEL / "triton").glob("*/config.pbtxt"):
        sizes = rf"\b({SIDE}|{LOGITS})\b"
        config.write_text(re.sub(sizes, lambda found: str(int(found[0]) // SMALLER), config.read_text()))
    return target
