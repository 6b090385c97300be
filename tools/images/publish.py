"""``make images``: the platform's own images for a real cluster, pushed to a registry, and pinned in a stack by digest.

``python -m tools.images.publish [NAME...] [--push REGISTRY/FOLDER] [--stack STACK] [--accelerator gpu|cpu]``
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components import versions
from infra.settings import IMAGE, PLATFORM_VERSION
from tools.images.build import describe_size, find_recipe
from tools.images.catalog import ROOT, Recipe
from tools.images.packages import own_package_settings

KEYS: Mapping[str, str] = {"platform": "modelport:image", "triton-cpu": "modelport:triton_image"}
"""Key of a stack's file that names each image."""

BUILDERS = ("docker", "podman", "buildah")
"""In the order in which they are tried."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ASKS = {"docker": ("info",), "podman": ("info",), "buildah": ("info",)}
"""What fails where a builder is installed and cannot build: docker's daemon may not be there."""


class PublishError(Exception):
    """An image cannot be built, pushed or pinned; the message says why and what to do."""


@dataclass(frozen=True)
class Pushed:
    """An image that a registry has."""

    name: str
    tag: str
    """``registry/folder/name:version``."""
    digest: str
    """What the registry calls its manifest, ``sha256:...``."""


def find_builder(environment: Mapping[str, str]) -> str:
    """The first program on PATH that can build images; ``$BUILDER`` names one.

    Raises:
        PublishError: there is none.
    """
    wanted = environment.get("BUILDER")
    for builder in (wanted,) if wanted else BUILDERS:
        path = shutil.which(builder, path=environment.get("PATH", ""))
        if path is None:
            continue
        asked = subprocess.run(
            [path, *_ASKS.get(builder, ("info",))], capture_output=True, check=False, timeout=60, env=dict(environment)
        )
        if asked.returncode == 0:
            return builder
    names = wanted or ", ".join(BUILDERS)
    raise PublishError(f"nothing here builds images: tried {names}; install one of them, or start docker's daemon")


def build_command(builder: str, recipe: Recipe, tag: str, accelerator: str, secret: Path | None) -> list[str]:
    """Command line that builds an image from the project's root.

    Args:
        builder: one of `BUILDERS`.
        recipe: the image.
        tag: what it is called.
        accelerator: ``gpu`` or ``cpu``, for an image that knows both.
        secret: file with settings of the package index, if there are any.
    """
    arguments = {"ACCELERATOR": accelerator} if "ACCELERATOR" in recipe.arguments else {}
    if recipe.base is not None:
        arguments["BASE"] = versions.reference(recipe.base.published)
    options = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
    if secret is not None:
        options += ["--secret", f"id=packages,src={secret}"]
    layers = ["--layers"] if builder == "buildah" else []
    return [builder, "build", *layers, *options, "--file", f"{recipe.folder}/Dockerfile", "--tag", tag, "."]


def pin(file: Path, key: str, pushed: Pushed) -> str:
    """Say in a stack's file which image it runs, by tag and digest; every other line stays as it is.

    Args:
        file: such as ``stacks/dev/Pulumi.dev.yaml``.
        key: such as ``modelport:image``.
        pushed: the image.

    Returns:
        The line that is there now.

    Raises:
        PublishError: there is no such file, or it is not a stack's; or a registry does not have the image.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not _DIGEST.fullmatch(pushed.digest):
        raise PublishError(f"{pushed.tag} has no digest that a registry gave ({pushed.digest!r}): push it first")
    value = f"{pushed.tag}@{pushed.digest}"
    if not re.fullmatch(IMAGE, value):
        raise PublishError(f"{value} is no reference of an image with its tag")
    try:
        text = file.read_text()
        before: dict[str, object] = YAML(typ="safe", pure=True).load(text)["config"]
    except (OSError, YAMLError, KeyError, TypeError):
        raise PublishError(f"{file} is no file of a stack; `pulumi stack init` makes one") from None
    line = f"  {key}: {value}"
    there = re.compile(rf"^  (?:['\"]?){re.escape(key)}(?:['\"]?):[ \t]*[^\s#]*(?P<comment>[ \t]+#.*)?$", re.MULTILINE)
    if key in before:
        changed, count = there.subn(lambda match: line + (match["comment"] or ""), text, count=1)
    else:
        changed, count = re.subn(
            r"^config:[ \t]*(#.*)?$", lambda match: f"{match[0]}\n{line}", text, flags=re.MULTILINE
        )
    after: dict[str, object] = YAML(typ="safe", pure=True).load(changed)["config"]
    if count != 1 or after != {**before, key: value}:
        raise PublishError(f"{file} is not written as expected: set it with `pulumi config set {key} {value}`")
    temporary = file.resolve().with_suffix(".tmp")
    temporary.write_text(changed)
    temporary.replace(file.resolve())
    return line.strip()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise PublishError(f"`{' '.join(command)}` failed with status {done.returncode}")


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise PublishError(f"`{' '.join(command)}` failed with status {done.returncode}")
    return done.stdout.strip()


def build(builder: str, recipe: Recipe, tag: str, accelerator: str) -> None:
    """Build an image.

    Raises:
        PublishError: it fails.
    """
    settings = own_package_settings()
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "packages" if settings else None
        if secret is not None:
            secret.write_text(settings)
        _run(build_command(builder, recipe, tag, accelerator, secret))


def push(builder: str, name: str, tag: str) -> Pushed:
    """Push an image.

    Raises:
        PublishError: the registry refuses it, or tells no digest.
    """
    if builder == "docker":
        _run([builder, "push", tag])
        listed: list[str] = json.loads(_output([builder, "inspect", "--format", "{{json .RepoDigests}}", tag]))
        repository = tag.rpartition(":")[0]
        digest = next((entry.rpartition("@")[2] for entry in listed if entry.startswith(f"{repository}@")), "")
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "digest"
            _run([builder, "push", "--digestfile", str(file), tag])
            digest = file.read_text().strip()
    if not _DIGEST.fullmatch(digest):
        raise PublishError(f"{builder} pushed {tag} and told no digest of it")
    return Pushed(name, tag, digest)


def size(builder: str, tag: str) -> str:
    """Size of an image's layers, as a person reads it."""
    if builder == "buildah":
        listed: list[dict[str, str]] = json.loads(_output([builder, "images", "--json", tag]))
        return listed[0]["size"]
    return describe_size(int(_output([builder, "image", "inspect", "--format", "{{.Size}}", tag])))


def main(arguments: Sequence[str]) -> int:
    """Build the named images, or the platform's; push and pin them where that is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make images", description="Build the platform's images for a real cluster.")
    parser.add_argument("name", nargs="*", default=["platform"], help=f"of {', '.join(KEYS)} [default: platform]")
    parser.add_argument("--push", metavar="REGISTRY/FOLDER", help="push them there")
    parser.add_argument("--stack", help="pin what was pushed in this stack's file")
    parser.add_argument(
        "--accelerator", choices=("gpu", "cpu"), default="gpu", help="cpu leaves out CUDA's larger half"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.name if name not in KEYS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(KEYS)}")
    if options.stack and not options.push:
        parser.error("a stack is pinned to what a registry has: say where to push it, PUSH=REGISTRY/FOLDER")
    file = ROOT / "stacks" / str(options.stack) / f"Pulumi.{options.stack}.yaml"
    if options.stack and not file.is_file():
        parser.error(f"there is no {file.relative_to(ROOT)}")
    place = str(options.push).rstrip("/") if options.push else "modelport"
    try:
        builder = find_builder(os.environ)
        for name in options.name:
            tag = f"{place}/{name}:{PLATFORM_VERSION}"
            build(builder, find_recipe(name), tag, options.accelerator)
            print(f"{tag}: {size(builder, tag)}")
            if options.push:
                pushed = push(builder, name, tag)
                print(f"pushed {pushed.tag}@{pushed.digest}")
                if options.stack:
                    print(f"{file.relative_to(ROOT)}: {pin(file, KEYS[name], pushed)}")
    except PublishError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
