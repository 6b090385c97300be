import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from modelport.imaging import ImageError, Limits, Reason, decode, decode_mask, encode_png, overlay, upright_size


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def _pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_is_exact_and_jpeg_close() -> None:
    pixels = np.kron(_pixels(4, 6), np.ones((8, 8, 1), np.uint8))
    assert np.array_equal(decode(encode_png(pixels)), pixels)
    jpeg = decode(_bytes(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0))
    assert np.abs(jpeg.astype(int) - pixels).mean() < 4


def test_exif_orientation_is_honoured() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = (200, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright = decode(_bytes(Image.fromarray(pixels), "JPEG", exif=exif, quality=95))
    assert upright.shape == (80, 40, 3)
    assert upright[:30].mean() > upright[-30:].mean()


def test_grey_sixteen_bits_keep_their_high_bits() -> None:
    grey = (np.arange(256, dtype=np.uint16)[None, :] * 257).repeat(3, 0)
    decoded = decode(_bytes(Image.fromarray(grey), "PNG"))
    assert decoded.shape == (3, 256, 3)
    assert np.array_equal(decoded[0, :, 0], np.arange(256))
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_palette_grey_cmyk_and_transparency_become_rgb() -> None:
    pixels = Image.fromarray(_pixels(8, 8))
    for data in (
        _bytes(pixels.convert("P"), "PNG"),
        _bytes(pixels.convert("L"), "PNG"),
        _bytes(pixels.convert("CMYK"), "JPEG"),
        _bytes(pixels.convert("RGBA"), "PNG"),
        _bytes(pixels.convert("1"), "PNG"),
    ):
        assert decode(data).shape == (8, 8, 3)
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[...] = (255, 255, 255, 0)
    assert decode(_bytes(Image.fromarray(clear), "PNG")).max() == 0


def _png(width: int, bits: int, color: int, samples: bytes, extra: bytes = b"") -> bytes:
    """A PNG of one row, written by hand: no library decides how the samples are stored."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + samples))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


_SAMPLES = (0, 255, 256, 0x1234, 0xFF00, 0xFFFF)
_HIGH = [0, 0, 1, 0x12, 255, 255]
_PALETTE = struct.pack(">I", 6) + b"PLTE" + bytes([9, 8, 7, 200, 100, 50])
_PALETTE += struct.pack(">I", zlib.crc32(_PALETTE[4:]))


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        pytest.param(_png(6, 16, 0, struct.pack(">6H", *_SAMPLES)), [[v, v, v] for v in _HIGH], id="grey 16"),
        pytest.param(
            _png(6, 16, 4, b"".join(struct.pack(">HH", v, 0xFFFF) for v in _SAMPLES)),
            [[v, v, v] for v in _HIGH],
            id="grey and alpha 16",
        ),
        pytest.param(_png(1, 16, 4, struct.pack(">HH", 0xFFFF, 0)), [[0, 0, 0]], id="transparent 16"),
        pytest.param(
            _png(6, 16, 2, b"".join(struct.pack(">HHH", v, 0x80FF, 0) for v in _SAMPLES)),
            [[v, 128, 0] for v in _HIGH],
            id="colour 16",
        ),
        pytest.param(
            _png(6, 16, 6, b"".join(struct.pack(">HHHH", v, 0x80FF, 0, 0xFFFF) for v in _SAMPLES)),
            [[v, 128, 0] for v in _HIGH],
            id="colour and alpha 16",
        ),
        pytest.param(_png(3, 8, 0, bytes([0, 7, 255])), [[0, 0, 0], [7, 7, 7], [255, 255, 255]], id="grey 8"),
        pytest.param(_png(2, 4, 0, bytes([0x0F])), [[0, 0, 0], [255, 255, 255]], id="grey 4"),
        pytest.param(_png(2, 1, 0, bytes([0b01000000])), [[0, 0, 0], [255, 255, 255]], id="1 bit"),
        pytest.param(_png(2, 8, 3, bytes([1, 0]), _PALETTE), [[200, 100, 50], [9, 8, 7]], id="palette"),
    ],
)
def test_every_kind_of_png_becomes_eight_bits_of_rgb(data: bytes, rows: list[list[int]]) -> None:
    decoded = decode(data)
    assert (decoded.dtype, decoded.tolist()) == (np.uint8, [rows])


def test_grey_of_sixteen_bits_lies_as_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.arange(6, dtype=np.uint16).reshape(2, 3) << 8
    decoded = decode(_bytes(Image.fromarray(wide), "PNG", exif=exif))
    assert decoded[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_is_that_of_the_decoded_image(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(Image.fromarray(_pixels(6, 10)), kind, exif=exif)
    assert upright_size(data) == decode(data).shape[:2]
    with pytest.raises(ImageError):
        upright_size(b"no image")


def _exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF written by hand: tag, type, count and value of each entry."""
    rows = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + rows + bytes(4)


ON_ITS_SIDE = (0x0112, 3, 1, b"\0\6\0\0")


@pytest.mark.parametrize(
    ("exif", "shape"),
    [
        # What Pillow reads of these it cannot write again.
        pytest.param(_exif(ON_ITS_SIDE, (0x0100, 1, 1, b"\0\0\0\1")), (6, 4, 3), id="width in bytes"),
        pytest.param(_exif(ON_ITS_SIDE, (0x010F, 11, 1, b"\0\0\0\1")), (6, 4, 3), id="maker in numbers"),
        pytest.param(_exif(ON_ITS_SIDE, (0x011A, 2, 1, b"\0\0\0\1")), (6, 4, 3), id="resolution in letters"),
        pytest.param(_exif((0x8825, 3, 2, b"\0\0\0\1"), ON_ITS_SIDE), (6, 4, 3), id="place in numbers"),
        pytest.param(_exif((0x0112, 2, 1, b"\0\6\0\0")), (4, 6, 3), id="orientation in letters"),
        pytest.param(_exif((0x0112, 3, 1, b"\0\x63\0\0")), (4, 6, 3), id="orientation that is none"),
        pytest.param(b"Exif\0\0no tags at all", (4, 6, 3), id="no tags"),
    ],
)
def test_odd_exif_costs_no_image(exif: bytes, shape: tuple[int, ...]) -> None:
    data = _bytes(Image.fromarray(_pixels(4, 6)), "JPEG", exif=exif)
    assert decode(data).shape == shape
    assert upright_size(data) == shape[:2]


def _changed(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


STORED = _bytes(Image.fromarray(_pixels(64, 64)), "PNG", compress_level=0)
"""Its pixels are in it as they are: a changed byte is a changed pixel, and still can be unpacked."""


def _header_only_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"this is no image at all", Reason.NOT_AN_IMAGE),
        (b"GIF89a" + bytes(40), Reason.NOT_AN_IMAGE),
        (_header_only_png(10_000, 10_000), Reason.TOO_MANY_PIXELS),
        (_header_only_png(100_000, 100_000), Reason.TOO_MANY_PIXELS),
        (bytes(30_000_000), Reason.TOO_LARGE),
        (_bytes(Image.fromarray(_pixels(64, 64)), "JPEG")[:-400], Reason.TRUNCATED),
        (encode_png(_pixels(64, 64))[:-600], Reason.TRUNCATED),
        (encode_png(_pixels(64, 64))[:20], None),
        (_changed(STORED, len(STORED) // 2), Reason.TRUNCATED),
        (encode_png(_pixels(64, 64))[:-12], Reason.TRUNCATED),
    ],
)
def test_bad_bytes_are_refused_with_a_reason(data: bytes, reason: Reason | None) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert reason in (None, caught.value.reason)


def test_limits_are_the_caller_s() -> None:
    data = encode_png(_pixels(10, 10))
    with pytest.raises(ImageError):
        decode(data, Limits(max_pixels=99))
    assert decode(data, Limits(max_pixels=100)).shape == (10, 10, 3)


def test_binary_masks_are_thresholded_and_others_hold_ids() -> None:
    grey = np.array([[0, 100, 127, 128, 255]], np.uint8)
    assert decode_mask(encode_png(grey), 2).tolist() == [[0, 0, 0, 1, 1]]
    assert decode_mask(encode_png(np.array([[0, 1, 1]], np.uint8)), 2).tolist() == [[0, 1, 1]]
    assert decode_mask(encode_png(np.array([[0, 1, 2]], np.uint8)), 3).tolist() == [[0, 1, 2]]
    with pytest.raises(ImageError, match="class 5"):
        decode_mask(encode_png(np.array([[0, 5]], np.uint8)), 3)


def test_an_overlay_tints_the_classes_and_leaves_the_background() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[0, 1], [0, 0]], np.uint8)
    drawn = overlay(image, mask, [(0, 0, 0), (255, 0, 0)], alpha=0.5)
    assert drawn[0, 1].tolist() == [178, 50, 50]
    assert np.array_equal(drawn[1], image[1])


BIG = 2000
"""Side of an image that is several strips."""


def test_a_large_image_is_decoded_and_drawn_as_a_small_one_and_in_little_memory() -> None:
    pixels = _pixels(BIG, BIG)
    wide = _bytes(Image.fromarray(pixels[..., 0].astype(np.uint16) << 8), "PNG", compress_level=1)
    mask = (pixels[..., 0] > 99).astype(np.uint8)
    colors = [(0, 0, 0), (255, 0, 0)]
    tracemalloc.start()
    try:
        grey, (_, decoding) = decode(wide), tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        before, drawn = tracemalloc.get_traced_memory()[0], overlay(pixels, mask, colors)
        drawing = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert np.array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))
    assert np.array_equal(drawn[-2:], overlay(pixels[-2:], mask[-2:], colors))
    # Three bytes are what is made; numpy's own are counted here, Pillow's are not.
    assert decoding < 6 * BIG * BIG
    assert drawing < 10 * BIG * BIG
