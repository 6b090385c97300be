"""What the formats share: image files of a folder by name, and decoding with the file's name in the error."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from modelport.data.manifest import FileEntry
from modelport.errors import BadInput
from modelport.imaging import decode

Decoded = TypeVar("Decoded")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def named_images(folder: Path, layout: str) -> Mapping[str, Path]:
    """Image files directly in a folder by their name without suffix, sorted; hidden ones are passed over.

    Raises:
        BadInput: there is no such folder, or something else is in it; `layout` is what the user is told to make.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder.name}/", file=folder, remedy=layout)
    named: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            raise BadInput(f"is a folder, but {folder.name}/ holds images only", file=path, remedy=layout)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            # Passing over it would train on fewer images than the user believes.
            raise BadInput("is not a JPEG or PNG file", file=path, remedy="convert it, or move it elsewhere")
        if path.stem in named:
            raise BadInput(f"has the same name as {named[path.stem].name}", file=path, remedy="rename or remove one")
        named[path.stem] = path
    return named


def decoded(entry: FileEntry, decoder: Callable[[bytes], Decoded], content: bytes) -> Decoded:
    """Content of a dataset's file, decoded.

    Raises:
        BadInput: it cannot be; naming the file.
    """
    try:
        return decoder(content)
    except BadInput as error:
        raise BadInput(
            error.message, file=entry.path, line=error.line, remedy="replace the file, and train anew"
        ) from None


def undecodable(file: Path, remedy: str) -> BadInput | None:
    """Why an image cannot be decoded; None if it can."""
    try:
        decode(file.read_bytes())
    except BadInput as error:
        return BadInput(error.message, file=file, remedy=remedy)
    return None
