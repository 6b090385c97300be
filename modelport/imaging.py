"""The only place where bytes become pixels, and pixels bytes again.

The training reader, the gateway, the command line and the load test all decode here, so that what a model was
trained on and what it is asked about cannot drift apart.
"""

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from modelport.errors import BadInput

Pixels: TypeAlias = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""
Mask: TypeAlias = NDArray[np.uint8]
"""uint8 [H, W], class ids."""


class Reason(StrEnum):
    """Why bytes are not an image that we take."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"


class ImageError(BadInput):
    """Bytes that cannot be decoded within the limits."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (ImageError, (self.reason, self.message))


@dataclass(frozen=True)
class Limits:
    """What is decoded at most."""

    max_bytes: int = 20 * 1024 * 1024
    """Size of the encoded file in bytes."""
    max_pixels: int = 50_000_000
    """Width times height."""


DEFAULT_LIMITS = Limits()
_FORMATS = ("JPEG", "PNG")
_ORIENTATION = 0x0112
"""EXIF's tag."""
_STRIP_PIXELS = 1 << 18


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Pixels:
    """Decode a JPEG or a PNG (8 or 16 bits a channel) to uint8 [H, W, 3] RGB, upright by its EXIF orientation.

    Grey becomes three equal channels; 16 bits keep their 8 most significant; what is transparent shows on black.
    The number of pixels is checked on the header, before any is decoded. A PNG whose bytes were changed on the way is
    found by its checksums. A JPEG has none: one that was cut off is found, one with changed bytes only where they make
    no sense.

    Raises:
        ImageError: with the reason.
    """
    image = _open(data, limits)
    orientation = _orientation(image)
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for rows in _strips(height, width):
        pixels[rows] = _rgb(image.crop((0, rows.start, width, rows.stop)))
    del image  # four bytes a pixel, which turning need not wait for
    return np.ascontiguousarray(_upright(pixels, orientation))


def pixel_count(data: bytes, limits: Limits = DEFAULT_LIMITS) -> int:
    """Width times height of an image, read from its header only.

    Raises:
        ImageError: not an image within the limits.
    """
    width, height = _header(data, limits).size
    return width * height


def upright_size(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int]:
    """(height, width) that `decode` gives an image, read from its header only.

    Raises:
        ImageError: not an image within the limits.
    """
    image = _header(data, limits)
    width, height = image.size
    # Orientations 5 to 8 are those that lie on their side.
    return (width, height) if _orientation(image) >= 5 else (height, width)


def decode_mask(data: bytes, classes: int, limits: Limits = DEFAULT_LIMITS) -> Mask:
    """Decode a mask to uint8 [H, W] of class ids below `classes`.

    With two classes a mask is either ids 0 and 1, or grey levels, of which those above 127 are class 1 (masks stored as
    JPEG have rims of in-between greys). With more classes it holds the ids themselves, as grey or palette PNG.

    Raises:
        ImageError: not an image, or ids outside the classes.
    """
    image = _open(data, limits)
    lying = np.asarray(image if image.mode in ("L", "P", "1") else image.convert("L")).astype(np.uint8)
    ids = np.ascontiguousarray(_upright(lying, _orientation(image)))
    if classes == 2 and image.mode != "P":
        return ids if ids.max(initial=0) <= 1 else (ids > 127).astype(np.uint8)
    found = int(ids.max(initial=0))
    if found >= classes:
        raise ImageError(Reason.UNSUPPORTED, f"the mask holds class {found}, but there are only {classes} classes")
    return ids


def encode_png(array: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 [H, W] (grey) or [H, W, 3] (RGB); lossless."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()


def overlay(image: Pixels, mask: Mask, colors: Sequence[tuple[int, int, int]], alpha: float = 0.45) -> Pixels:
    """Image [H, W, 3] with each class of the mask [H, W] tinted in `colors[id]`; class 0 is left as it is."""
    palette = np.zeros((256, 3), np.float32)
    palette[: len(colors)] = np.asarray(colors, np.float32).reshape(-1, 3)
    drawn = np.empty_like(image)
    for rows in _strips(*mask.shape):  # what is computed in between takes 24 times as much as the image
        tinted = image[rows] * (1 - alpha) + palette[mask[rows]] * alpha
        drawn[rows] = np.where((mask[rows] > 0)[:, :, None], np.rint(tinted), image[rows])
    return drawn


def draw_boxes(
    image: Pixels,
    boxes: NDArray[np.floating[Any]],
    *,
    captions: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
) -> Pixels:
    """Image [H, W, 3] with boxes [K, 4] (left, top, right, bottom in pixels) and a caption for each.

    The first box is drawn last, so that it is whole where they overlap. What lies outside the image is not seen.
    """
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    line, font = _line_and_font(width, height)
    for box, caption, color in reversed(list(zip(boxes, captions, colors, strict=True))):
        left, top = (max(-line, round(float(value))) for value in box[:2])
        # A box ends where the next pixel begins.
        right, bottom = min(width + line, round(float(box[2]))) - 1, min(height + line, round(float(box[3]))) - 1
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=line)
        if caption:
            text_width, text_height = _text_size(draw, caption, font)
            x = min(max(0, left), max(0, width - text_width))
            y = top - text_height if top >= text_height else max(0, top + line)
            _write(draw, (x, y), caption, font, color)
    return np.asarray(canvas)


def draw_caption(image: Pixels, caption: str, color: tuple[int, int, int]) -> Pixels:
    """Image [H, W, 3] with a caption in a bar of that colour along its lower edge."""
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    _, font = _line_and_font(width, height)
    text_height = _text_size(draw, caption, font)[1]
    draw.rectangle((0, height - text_height, width, height), fill=color)
    _write(draw, (0, height - text_height), caption, font, color)
    return np.asarray(canvas)


_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MARGIN = 2
"""Pixels around a text."""


def _line_and_font(width: int, height: int) -> tuple[int, _Font]:
    """Width of lines, and a font, that can be seen when the whole image is looked at."""
    side = min(width, height)
    return max(1, round(side / 250)), ImageFont.load_default(max(10, round(side / 28)))


def _text_size(draw: ImageDraw.ImageDraw, text: str, font: _Font) -> tuple[int, int]:
    # The height of every letter that there is, so that captions in one image are alike.
    _, top, _, bottom = draw.textbbox((0, 0), "Ag|", font=font)
    return round(draw.textlength(text, font=font)) + 2 * _MARGIN, round(bottom - top) + 2 * _MARGIN


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font: _Font, color: tuple[int, int, int]
) -> None:
    """Text on a ground of that colour, black or white after how bright that is."""
    width, height = _text_size(draw, text, font)
    x, y = place
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    top = draw.textbbox((0, 0), "Ag|", font=font)[1]
    ink = (0, 0, 0) if bright else (255, 255, 255)
    draw.text((x + _MARGIN, y + _MARGIN - top), text, fill=ink, font=font)


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Checked and fully decoded Pillow image, as it lies in the file."""
    image = _header(data, limits)
    try:
        if image.format == "PNG":
            # Pillow passes over the checksums of the pixels, and would make other pixels of changed bytes. It wants an
            # image of its own for that.
            _header(data, limits).verify()
        image.load()
    except (OSError, SyntaxError, ValueError, IndexError) as error:
        raise ImageError(Reason.TRUNCATED, f"the image is damaged or cut off: {error}") from None
    return image


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF has it; 1, which is upright, where the image says nothing that makes sense."""
    try:
        found = image.getexif().get(_ORIENTATION)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error):
        # What cameras and editors write there is often damaged. Viewers show such an image as it lies, too.
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of an array [H, W, ...] that lies as an EXIF orientation says, turned upright."""
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    down = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    across = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return turned[down, across]


def _rgb(image: Image.Image) -> Pixels:
    """Pixels of a decoded image of any mode."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _strips(height: int, width: int) -> Iterator[slice]:
    """Rows of an image, some at a time: what is made of them on the way must not be as large as the whole."""
    rows = max(1, _STRIP_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _header(data: bytes, limits: Limits) -> Image.Image:
    """Checked Pillow image, of which only the header is read."""
    if not data:
        raise ImageError(Reason.EMPTY, "the image is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageError(Reason.TOO_LARGE, f"the image has {len(data)} bytes; at most {limits.max_bytes} are taken")
    try:
        with warnings.catch_warnings():
            # Our own limit below decides, on the header; Pillow's would warn or raise at another number.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.TOO_MANY_PIXELS, f"the image has too many pixels: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(Reason.NOT_AN_IMAGE, "not a JPEG or PNG image") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(Reason.TRUNCATED, f"the image is damaged: {error}") from None
    width, height = image.size
    if width * height > limits.max_pixels:
        message = f"the image has {width}x{height} pixels; at most {limits.max_pixels} are taken"
        raise ImageError(Reason.TOO_MANY_PIXELS, message)
    if width == 0 or height == 0:
        raise ImageError(Reason.UNSUPPORTED, f"the image has {width}x{height} pixels")
    return image
