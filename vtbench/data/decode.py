"""Stored bytes to an RGB picture, by rules that do not depend on who else set Pillow's switches.

- 16 bits become 8 by their high byte: what Pillow does to colour and libpng calls "strip"; exact for 8-bit pictures that were
  promoted to 16 (v * 257). Pillow's own ``convert`` clips 16-bit grey to white instead.
- Transparency is dropped (the stored colours are shown), as ``convert("RGB")`` does in the field's loaders.
- CMYK and every other mode: Pillow's ``convert("RGB")``; colour profiles are ignored.
- Of several frames, the first.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from vtbench.damage import BROKEN, reason
from vtbench.errors import BadSample, Unread, UsageError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded (10,000 x 10,000: 300 MB as RGB); checked from the header, before any decoding."""

FORMATS = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png",),
    "webp": (".webp",),
    "bmp": (".bmp", ".dib"),
    "gif": (".gif",),
    "tiff": (".tif", ".tiff"),
    "ppm": (".ppm", ".pgm", ".pbm", ".pnm"),
    "jpeg2000": (".jp2", ".j2k", ".jpx"),
    "avif": (".avif",),
}
EXTENSIONS = {extension: format_ for format_, extensions in FORMATS.items() for extension in extensions}
"""Extension (lower case) -> the format's name; also Pillow's name of it, in lower case."""

_strictly = threading.Lock()


def sniff(content: bytes) -> str:
    """The format's name by the first bytes, or "" when it is none that vtbench reads."""
    if content[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    if content[:4] == b"GIF8":
        return "gif"
    if content[:4] in (b"II*\x00", b"MM\x00*"):
        return "tiff"
    if content[:2] == b"BM":
        return "bmp"
    if content[:1] == b"P" and content[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6") and content[2:3].isspace():
        return "ppm"
    if content[:12] == b"\x00\x00\x00\x0cjP  \r\n\x87\n" or content[:4] == b"\xff\x4f\xff\x51":
        return "jpeg2000"
    if content[4:8] == b"ftyp" and content[8:12] in (b"avif", b"avis"):
        return "avif"
    return ""


def open_header(content: bytes | BinaryIO, name: str) -> Image.Image:
    """The picture's header, not yet decoded; content is the stored bytes or an open file.

    Raises `BadSample`: unknown format, damaged header, too many pixels."""
    from PIL import Image

    file = io.BytesIO(content) if isinstance(content, bytes) else content
    format_ = sniff(file.read(16))
    file.seek(0)
    if not format_:
        raise BadSample(
            f"{name} is not an image that vtbench reads", f"It reads {', '.join(FORMATS)}; convert or remove it"
        )
    Image.init()
    if format_.upper() not in Image.OPEN:
        raise BadSample(f"{name}: this Pillow was built without {format_}", "Install a Pillow wheel from PyPI")
    try:
        image = Image.open(file, formats=[format_])
    except Image.DecompressionBombError as error:
        raise BadSample(f"{name} is larger than the limit of {MAX_PIXELS:,} pixels", "Make it smaller") from error
    except BROKEN as error:
        raise BadSample(f"{name} is damaged: {reason(error)}", "Fetch it again or remove it") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadSample(
            f"{name} is {width} x {height}, more than the limit of {MAX_PIXELS:,} pixels", "Make it smaller"
        )
    if width < 1 or height < 1:
        raise BadSample(f"{name} has no pixels ({width} x {height})")
    return image


def decode(content: bytes, name: str, exif: str = "apply") -> Image.Image:
    """Decode a stored file to a picture of mode RGB.

    exif: `apply` (turn by the EXIF orientation) or `ignore`. Raises `BadSample` naming the file when it is truncated, damaged,
    of an unknown format or larger than `MAX_PIXELS`."""
    from PIL import ImageOps

    if exif not in ("apply", "ignore"):
        raise UsageError(f"[input] exif = {exif!r} is unknown", "Use 'apply' or 'ignore'")
    image = open_header(content, name)
    try:
        _load(image)
    except MemoryError as error:
        if not _room(image):
            raise Unread(f"{name} found no memory to be decoded in ({image.width} x {image.height})") from error
        raise BadSample(f"{name} is damaged: {reason(error)}", "Fetch it again or remove it") from error
    except BROKEN as error:
        raise BadSample(f"{name} is damaged: {reason(error)}", "Fetch it again or remove it") from error
    try:
        turned = ImageOps.exif_transpose(image) if exif == "apply" else image
    except BROKEN as error:
        raise BadSample(f"{name} is damaged: {reason(error)}", "Fetch it again or remove it") from error
    return _to_rgb(turned, name, image.format or "")


def decode_array(array: np.ndarray, name: str) -> Image.Image:
    """uint8 ``[H, W, 3]`` as a picture."""
    from PIL import Image

    height, width = array.shape[:2]
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise BadSample(f"{name} is {width} x {height}; the limit is {MAX_PIXELS:,} pixels and at least one")
    return Image.fromarray(array)


def _load(image: Image.Image) -> None:
    """Decode. A truncated file must fail even where a training script set LOAD_TRUNCATED_IMAGES, which fills it with grey."""
    from PIL import ImageFile

    if not ImageFile.LOAD_TRUNCATED_IMAGES:
        image.load()
        return
    with _strictly:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _room(image: Image.Image) -> bool:
    """Whether there is memory for a picture: Pillow's decoders call damage, too, a lack of memory."""
    try:
        np.empty(4 * image.width * image.height + (16 << 20), np.uint8)
    except MemoryError:
        return False
    return True


def _to_rgb(image: Image.Image, name: str, format_: str) -> Image.Image:
    from PIL import Image as pil

    if image.mode.startswith("I;16"):
        return pil.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535 or format_ not in ("PNG", "PPM"):
            raise BadSample(f"{name} has 32-bit pixels without a stated range", "Convert it to 8 or 16 bits")
        return pil.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadSample(f"{name} has floating-point pixels without a stated range", "Convert it to 8 or 16 bits")
    image.info.pop("transparency", None)  # dropped by convert in any case, with a warning
    try:
        return image.convert("RGB")
    except BROKEN as error:
        raise BadSample(f"{name}: mode {image.mode} cannot be made RGB: {reason(error)}") from error
