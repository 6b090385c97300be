"""The images: the Dockerfile of each, what it may copy, and what it is called. Nothing else decides what is in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.versions import Image

ROOT = Path(__file__).resolve().parents[2]
"""The project, which is the context of every build."""

PROGRAMS = "programs"
"""Folder of a build's context with programs from ``tools/``."""


@dataclass(frozen=True)
class Base:
    """A published image that others start from, and how Debian's packages make one like it."""

    name: str
    published: str
    suite: str
    """Debian's release."""
    packages: tuple[str, ...] = ()
    """Beyond the smallest system with apt."""
    links: Mapping[str, str] = field(default_factory=dict[str, str])
    """Symbolic links by their path, where the published image has programs and Debian has them elsewhere."""


@dataclass(frozen=True)
class Recipe:
    """An image."""

    name: str
    reference: str
    """What it is called in a cluster."""
    folder: str
    """Folder of its Dockerfile, from the project's root."""
    sources: tuple[str, ...] = ()
    """Files and folders that it copies, from the project's root."""
    programs: tuple[str, ...] = ()
    """Programs of ``tools/`` that it copies, each at ``programs/NAME``."""
    base: Base | None = None
    """What its build argument BASE is."""
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further build arguments."""


PYTHON = Base(
    "python",
    "docker.io/library/python:3.11-slim-bookworm",
    "bookworm",
    ("ca-certificates", "libpython3.11", "python3", "python3-pip"),
    {"/usr/local/bin/python": "/usr/bin/python3", "/usr/local/bin/python3": "/usr/bin/python3"},
)
# PostgreSQL is of the same major version in this Debian and in the published image.
DEBIAN = Base("debian", "docker.io/library/debian:trixie-slim", "trixie")

_STAND_INS = "tests/cluster/images"

IMAGES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "platform",
            "docker.io/modelport/platform:dev",
            "images/platform",
            (
                "images/platform/cuda_stubs.py",
                "images/platform/headless.txt",
                "images/platform/trim.sh",
                "images/platform/wheel.txt",
                "loadtests",
                "locks/platform.txt",
                "locks/uv.txt",
                "modelport",
                "pyproject.toml",
                "README.md",
                "LICENSE",
            ),
            base=PYTHON,
            arguments={"ACCELERATOR": "cpu"},
        ),
        Recipe(
            "triton-cpu",
            "docker.io/modelport/triton-cpu:dev",
            "images/triton-cpu",
            ("locks/triton.txt", "locks/uv.txt", "modelport/local/triton_backend/model.py"),
            base=PYTHON,
        ),
        Recipe("postgres", Image.POSTGRES, f"{_STAND_INS}/postgres", base=DEBIAN),
        Recipe("minio", Image.MINIO, f"{_STAND_INS}/minio", programs=("minio",)),
        Recipe("minio-client", Image.MINIO_CLIENT, f"{_STAND_INS}/minio-client", programs=("mc",), base=DEBIAN),
        Recipe(
            "kuberay-operator",
            Image.KUBERAY_OPERATOR,
            f"{_STAND_INS}/kuberay-operator",
            programs=("ray-operator",),
        ),
    )
}
