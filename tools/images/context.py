"""What a build sees: a copy of the files that its recipe names, and the digest of all that decides the image."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tools.catalog import BuildError
from tools.images.catalog import PROGRAMS, Base, Recipe

_SKIPPED = ("__pycache__", ".DS_Store")
# Layers are found again by the metadata of what was copied: a checkout's times and rights must not change them.
_TIME = 1_000_000_000
_FORMAT = 1
"""Another number builds everything anew: raise it when what is done around the Dockerfiles changes."""


def context_files(recipe: Recipe, root: Path, programs: Mapping[str, Path]) -> dict[str, Path]:
    """Every file of a build's context by its path there.

    Args:
        recipe: the image.
        root: the project.
        programs: path of each program that the recipe names.

    Raises:
        BuildError: something is named that is not there.
    """
    found: dict[str, Path] = {f"{PROGRAMS}/{name}": path for name, path in programs.items()}
    for source in (f"{recipe.folder}/Dockerfile", *recipe.sources):
        path = root / source
        if path.is_file():
            found[source] = path
            continue
        inside = [
            file
            for file in path.rglob("*")
            if file.is_file() and file.suffix != ".pyc" and not set(file.relative_to(root).parts) & set(_SKIPPED)
        ]
        if not inside:
            raise BuildError(f"image {recipe.name} copies {path}, where nothing is")
        found |= {file.relative_to(root).as_posix(): file for file in inside}
    return dict(sorted(found.items()))


def image_digest(recipe: Recipe, files: Mapping[str, Path]) -> str:
    """Twelve hexadecimal digits that change with everything that decides an image."""
    return _digest(
        {
            "format": _FORMAT,
            "reference": recipe.reference,
            "base": base_digest(recipe.base) if recipe.base else None,
            "arguments": dict(recipe.arguments),
            "files": {name: [_hash(path), _mode(path)] for name, path in files.items()},
        }
    )


def base_digest(base: Base) -> str:
    """Twelve hexadecimal digits that change with what a base is made of; not with the day's packages."""
    return _digest([_FORMAT, base.published, base.suite, base.packages, dict(base.links)])


def lay_out(files: Mapping[str, Path], folder: Path) -> None:
    """Copy the files of a context into a folder, all of the same age."""
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(_mode(path))
        os.utime(target, (_TIME, _TIME))
    for inside in (folder, *folder.rglob("*/")):
        os.utime(inside, (_TIME, _TIME))


def _mode(path: Path) -> int:
    return 0o755 if os.access(path, os.X_OK) else 0o644


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
