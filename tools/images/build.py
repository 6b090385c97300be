"""Building images, once per machine: each into a folder of a cache, named by a digest of all that decides it.

An image's dependencies are a layer that does not depend on the project's sources: after a change of the code a build
makes small layers only, and the folders of two images share, as hard links, what is the same in both.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from tools.build import program
from tools.cache import Say, cache_folder, locked, once, say_on_stderr
from tools.catalog import BuildError
from tools.debian import need
from tools.images.archive import finish, image_size, share_blobs
from tools.images.bases import apt_sources, ensure_base
from tools.images.buildah import storage
from tools.images.catalog import IMAGES, ROOT, Recipe
from tools.images.context import context_files, image_digest, lay_out
from tools.images.packages import own_package_settings

_KEPT = 2
"""How many builds of an image are kept: that of another clone, or of another branch, is not made anew each time."""


def images_folder() -> Path:
    """Where images and layers are kept, beside the tools."""
    return cache_folder(os.environ).parent / "images"


def find_recipe(name: str) -> Recipe:
    """An image's recipe.

    Raises:
        BuildError: there is no such image.
    """
    if name not in IMAGES:
        raise BuildError(f"no image {name!r}; there are: {', '.join(IMAGES)}")
    return IMAGES[name]


def ensure_layout(
    name: str, *, recipe: Recipe | None = None, root: Path = ROOT, folder: Path | None = None, say: Say = say_on_stderr
) -> Path:
    """Folder with an image in OCI's layout, for `write_archive`; it is built if that has not been done yet.

    Args:
        name: one of the catalogue.
        recipe: how it is made; by default what the catalogue says.
        root: the project.
        folder: of images and layers; by default this user's.
        say: is told what is built, how long it took, and the image's size.

    Raises:
        BuildError: there is no such image, or it cannot be built.
        PackagesMissing: buildah is not there and cannot be installed.
    """
    recipe = recipe or find_recipe(name)
    folder = folder or images_folder()
    files = context_files(recipe, root, {tool: program(tool) for tool in recipe.programs})
    digest = image_digest(recipe, files)

    def make(layout: Path, log: Path) -> None:
        if os.geteuid() != 0:
            raise BuildError(f"building image {name} takes root; `docker build` does without, see docs/images.md")
        need("buildah", "skopeo")
        with locked(folder / "storage.lock", f"image {name} or another", say):
            _build(recipe, digest, files, folder, layout, log, say)
        say(f"image {name}: {describe_size(image_size(layout))}")

    return once(folder, f"{name}-{digest}", f"image {name}", say, make)


def layout_of(recipe: Recipe, root: Path = ROOT) -> Path:
    """Where an image is, or will be when it is built; its programs are built by this."""
    files = context_files(recipe, root, {tool: program(tool) for tool in recipe.programs})
    return images_folder() / f"{recipe.name}-{image_digest(recipe, files)}"


def describe_size(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _build(
    recipe: Recipe, digest: str, files: dict[str, Path], folder: Path, layout: Path, log: Path, say: Say
) -> None:
    repository = f"localhost/modelport/{recipe.name}"
    tag = f"{repository}:{digest}"
    with storage(folder, log) as buildah, tempfile.TemporaryDirectory(dir=folder / "state") as name:
        work = Path(name)
        context, scratch = work / "context", work / "base"
        context.mkdir()
        scratch.mkdir()
        lay_out(files, context)
        arguments, sources = dict(recipe.arguments), ""
        if recipe.base is not None:
            arguments["BASE"] = ensure_base(buildah, recipe.base, scratch, log, say)
            sources = apt_sources(recipe.base)
        buildah.build(
            context,
            f"{recipe.folder}/Dockerfile",
            tag,
            arguments=arguments,
            packages=own_package_settings(),
            apt_sources=sources,
        )
        share_blobs(folder.glob(f"{recipe.name}-*/"), layout)
        buildah.export(tag, layout)
        finish(layout, recipe.reference)
        earlier = _forget(folder, recipe.name, _KEPT - 1)
        buildah.keep(repository, [tag, *(f"{repository}:{old}" for old in earlier)])


def _forget(folder: Path, name: str, kept: int) -> list[str]:
    """Remove all but the last builds of an image; returns the digests of those that stay."""
    pattern = re.compile(rf"{re.escape(name)}-([0-9a-f]{{12}})")
    found = {match[1]: path for path in folder.iterdir() if path.is_dir() and (match := pattern.fullmatch(path.name))}
    by_age = sorted(found, key=lambda digest: found[digest].stat().st_mtime, reverse=True)
    for old in by_age[kept:]:
        shutil.rmtree(found[old], ignore_errors=True)
    return by_age[:kept]
