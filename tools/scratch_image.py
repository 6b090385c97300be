"""Container images of one static program and nothing else, made without a builder: ``FROM scratch``, in a few lines.

``archive(program("pause"), "registry.k8s.io/pause:3.10")`` gives a file that ``docker load`` and containerd read;
``python -m tools.scratch_image pause registry.k8s.io/pause:3.10`` prints where it is.
"""

import hashlib
import io
import json
import os
import platform
import sys
import tarfile
from pathlib import Path

from tools import build
from tools.cache import Say, cache_folder, once, say_on_stderr
from tools.catalog import BuildError

NOBODY = "65532:65532"
"""User and group of an image that says none: not root, and nobody's."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LAYOUT = "1"
"""Raised when the archives are made differently."""


def archive(
    program: Path,
    reference: str,
    entrypoint: str | None = None,
    *,
    user: str = NOBODY,
    cache: Path | None = None,
    say: Say = say_on_stderr,
) -> Path:
    """Archive of an image whose one file is a program; made once for the same program, names and user.

    Args:
        program: a static program.
        reference: the image's name and tag, such as ``registry.k8s.io/pause:3.10``.
        entrypoint: absolute path of the program in the image; by default its name at the root.
        user: whom it runs as, where nobody says otherwise.
        cache: folder of made archives; by default that of this user.
        say: is told.

    Raises:
        BuildError: the program needs libraries, and would not run.
    """
    content = program.read_bytes()
    if not is_static(content):
        raise BuildError(f"{program} needs libraries that an image of one file does not have: build it static")
    place = entrypoint or f"/{program.name}"
    parts = [hashlib.sha256(content).hexdigest(), reference, place, user, platform.machine(), _LAYOUT]
    name = f"image-{program.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"

    def make(folder: Path, _: Path) -> None:
        _write(folder / "image.tar", content, reference, place, user)

    return once(cache or cache_folder(os.environ), name, f"image {reference}", say, make) / "image.tar"


def is_static(content: bytes) -> bool:
    """Whether a program for Linux (ELF, 64 bits) runs without a dynamic loader."""
    if content[:5] != b"\x7fELF\x02":
        return False
    start = int.from_bytes(content[32:40], "little")
    size, count = (int.from_bytes(content[at : at + 2], "little") for at in (54, 56))
    interpreter = 3
    kinds = (int.from_bytes(content[at : at + 4], "little") for at in range(start, start + size * count, size))
    return interpreter not in kinds


def _write(file: Path, content: bytes, reference: str, place: str, user: str) -> None:
    layer = file.with_name("layer.tar")
    with tarfile.open(layer, "w") as tar:
        for folder in reversed(Path(place).parents[:-1]):
            _add(tar, str(folder), None, 0o755)
        # Where a program looks for a place to write; a read-only root has a volume there.
        _add(tar, "/tmp", None, 0o1777)  # noqa: S108 (it is the image's)
        _add(tar, place, content, 0o755)
    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": [place], "User": user, "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    text = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [reference], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(file, "w") as tar:
        _add(tar, config_name, text, 0o644)
        tar.add(layer, f"{digest}/layer.tar", filter=_plain)
        _add(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)
    layer.unlink()


def _add(tar: tarfile.TarFile, path: str, content: bytes | None, mode: int) -> None:
    """Add a file, or without content a folder, that is root's and has no date: the same input gives the same bytes."""
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.mode = mode
    if content is None:
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    else:
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    plain = tarfile.TarInfo(entry.name)
    plain.size = entry.size
    return plain


def main(name: str, reference: str) -> None:
    """Print where the archive of an image is that holds the program of a tool."""
    print(archive(build.program(name), reference))


if __name__ == "__main__":
    main(*sys.argv[1:])
