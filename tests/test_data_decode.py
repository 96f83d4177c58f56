"""Decoding: modes, bit depths, EXIF, damage and limits."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from vtbench.data.decode import MAX_PIXELS, decode, sniff
from vtbench.errors import BadSample, UsageError


def stored(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def noise(height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray, depth: int, colour: int) -> bytes:
    """A PNG written by hand, since Pillow writes no 16-bit colour. pixels: ``[H, W, C]``."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format_", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_come_back_exactly(format_: str) -> None:
    content = stored(Image.fromarray(noise()), format_)
    assert sniff(content) == format_.lower()
    np.testing.assert_array_equal(np.asarray(decode(content, "x")), noise())


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "GIF", "AVIF", "JPEG2000"])
def test_other_formats_are_known(format_: str) -> None:
    from PIL import features

    if format_ == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = stored(Image.new("RGB", (20, 10), (200, 30, 40)), format_)
    assert sniff(content) == format_.lower()
    image = decode(content, "x")
    assert (image.mode, image.size) == ("RGB", (20, 10))
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 40)).max() <= 4


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    promoted = stored(Image.fromarray(levels * 257), "PNG")
    np.testing.assert_array_equal(np.asarray(decode(promoted, "x"))[..., 0], levels)
    ramp = np.array([[0, 255, 256, 32767, 32768, 65279, 65280, 65535]], dtype=np.uint16)
    shown = np.asarray(decode(stored(Image.fromarray(ramp), "PNG"), "x"))
    assert shown[0, :, 1].tolist() == [0, 0, 1, 127, 128, 254, 255, 255]


def test_sixteen_bit_grey_and_colour_follow_one_rule() -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (5, 7, 1)).repeat(3, axis=2)
    colour = np.asarray(decode(png(deep, 16, 2), "x"))
    grey = np.asarray(decode(png(deep[..., :1], 16, 0), "x"))
    np.testing.assert_array_equal(colour, deep >> 8)
    np.testing.assert_array_equal(grey, colour)


def test_sixteen_bit_tiff_and_pgm() -> None:
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    tiff = stored(Image.fromarray(levels), "TIFF")
    pgm = b"P5 16 16 65535\n" + levels.astype(">u2").tobytes()
    for content in (tiff, pgm):
        np.testing.assert_array_equal(np.asarray(decode(content, "x"))[..., 2], levels >> 8)


def test_pixels_without_a_range_are_refused() -> None:
    for mode in ("F", "I"):
        with pytest.raises(BadSample, match="without a stated range"):
            decode(stored(Image.new(mode, (4, 4)), "TIFF"), "x")


def test_cmyk_with_the_profile_of_print() -> None:
    pure = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red = np.asarray(decode(stored(pure, "JPEG", quality=95), "x"))
    assert red[..., 0].min() > 245
    assert red[..., 1:].max() < 10


def test_transparency_is_dropped_and_the_colours_beneath_shown() -> None:
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in (
            stored(palette, "PNG", transparency=1),
            stored(palette, "PNG", transparency=bytes([255, 0])),
            stored(Image.new("RGBA", (4, 2), (10, 200, 30, 0)), "PNG"),
        ):
            assert np.asarray(decode(content, "x")).reshape(-1, 3).tolist() == [[10, 200, 30]] * 8


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(noise()).convert("L").convert(mode)
    shown = decode(stored(image, "PNG"), "x")
    assert shown.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise()
    content = stored(Image.fromarray(pixels), "PNG", exif=exif)
    turned = {  # what a viewer shows, per the EXIF standard
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }
    np.testing.assert_array_equal(np.asarray(decode(content, "x", "apply")), turned[orientation])
    np.testing.assert_array_equal(np.asarray(decode(content, "x", "ignore")), pixels)


def test_exif_has_two_values() -> None:
    with pytest.raises(UsageError, match="exif = 'yes'"):
        decode(stored(Image.new("RGB", (1, 1)), "PNG"), "x", "yes")


def test_one_pixel() -> None:
    assert decode(stored(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), "x").getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_files_are_named_even_where_pillow_was_told_to_fill_them(
    format_: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    content = stored(Image.fromarray(noise(64, 64)), format_)
    with pytest.raises(BadSample, match=r"here/cut\.bin is damaged"):
        decode(content[: len(content) // 2], "here/cut.bin")
    assert lenient is ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("cut", [3, 8, 12, 20])
def test_cut_within_the_header(cut: int) -> None:
    for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        with pytest.raises(BadSample, match="name"):
            decode(stored(Image.fromarray(noise()), format_)[:cut], "name")


def test_no_image_at_all() -> None:
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", b"\0" * 64, b"P9 hello"):
        with pytest.raises(BadSample, match="is not an image that vtbench reads"):
            decode(content, "x")


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    assert MAX_PIXELS < 20_000 * 20_000
    header = png(np.zeros((1, 1, 3), np.uint8), 8, 2)
    for width, height in ((20_000, 20_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)):
        ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        bomb = header[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + header[33:]
        with pytest.raises(BadSample, match="limit of 100,000,000 pixels"):
            decode(bomb, "x")


def test_the_limit_holds_where_a_script_lifted_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    test_the_pixel_limit_is_checked_before_decoding()


def test_damage_of_any_kind_is_a_bad_sample() -> None:
    """Random bytes changed, removed and added: a picture comes out or `BadSample`, and never anything else."""
    random = np.random.default_rng(5)
    outcomes = set()
    for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"):
        whole = stored(Image.fromarray(noise()), format_)
        for _ in range(60):
            content = bytearray(whole)
            for at in random.integers(0, len(content), 4):
                content[at % len(content)] = random.integers(256)
                if random.random() < 0.3:
                    del content[at % len(content) : at % len(content) + 3]
            try:
                outcomes.add(decode(bytes(content), "x").mode)
            except BadSample:
                outcomes.add("bad")
    assert outcomes == {"RGB", "bad"}
