"""Codecs as models: JPEG, WebP, JPEG 2000 and AVIF through Pillow, counted in the bytes of real files.

A file's bytes include its headers, as a user would store it (a JPEG's take some 600 bytes: 0.07 bits per pixel at 256 x 256).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadSample, MissingPackage, UsageError

if TYPE_CHECKING:
    import torch

_LIBRARIES = {"JPEG": ("jpg", "libjpeg_turbo"), "WEBP": ("webp",), "JPEG2000": ("jpg_2000",), "AVIF": ("avif",)}


def _library(kind: str) -> str:
    """The codec library that Pillow was built with, and its version: it decides the bytes, so it is part of the revision."""
    import PIL
    from PIL import features

    known = [
        f"{n} {features.version(n)}"
        for n in _LIBRARIES[kind]
        if n in (*features.codecs, *features.modules, *features.features) and features.check(n)
    ]
    return f"pillow {PIL.__version__}; {', '.join(known)}"


class Codec(Tokenizer):
    """A codec of Pillow's. Pixels are rounded to 8 bits first; `options` go to its writer as they are."""

    kind = ""
    capabilities = Capabilities()

    def __init__(self, **options: Any) -> None:
        from PIL import Image

        Image.init()
        if self.kind not in Image.SAVE:
            raise MissingPackage("pillow", "all", f"the codec {self.kind}, which this Pillow was built without,")
        self._options = {k: v for k, v in options.items() if v is not None}
        self.revision = f"vtbench:{self.kind.lower()}:1 ({_library(self.kind)})"

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """float32 ``[B, 3, H, W]`` in [0, 1] -> one file an image."""
        from PIL import Image

        from vtbench.view import to_bytes

        files = []
        for array in to_bytes(images, "round"):
            out = io.BytesIO()
            try:
                Image.fromarray(array).save(out, self.kind, **self._options)
            except (OSError, ValueError) as error:
                raise BadSample(
                    f"{self.kind} cannot write {array.shape[1]} x {array.shape[0]} pixels: {error}"
                ) from error
            files.append(out.getvalue())
        stream = Stream("file", "bytes", "grid2d", shape=(int(images.shape[2]), int(images.shape[3])))
        return Tokens((stream,), {"file": files}, len(files))

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Files -> float32 ``[B, 3, H, W]`` on the 8-bit grid."""
        from PIL import Image

        from vtbench.view import from_bytes

        arrays = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in tokens.data["file"]]
        return from_bytes(arrays)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} is from {low:g} to {high:g}, not {value:g}")


class JPEG(Codec):
    """Baseline JPEG. Defaults are Pillow's: quality 75, 4:2:0 chroma, standard Huffman tables."""

    kind = "JPEG"

    def __init__(
        self, *, quality: int = 75, subsampling: str = "4:2:0", optimize: bool = False, progressive: bool = False
    ) -> None:
        _within("jpeg:quality", quality, 1, 100)
        if subsampling not in ("4:4:4", "4:2:2", "4:2:0"):
            raise UsageError(f"jpeg:subsampling is 4:4:4, 4:2:2 or 4:2:0, not '{subsampling}'")
        super().__init__(quality=quality, subsampling=subsampling, optimize=optimize, progressive=progressive)


class WebP(Codec):
    """WebP. Defaults are Pillow's: lossy, quality 80, method 4. With `lossless`, quality is the effort."""

    kind = "WEBP"

    def __init__(self, *, quality: int = 80, method: int = 4, lossless: bool = False) -> None:
        _within("webp:quality", quality, 0, 100)
        _within("webp:method", method, 0, 6)
        super().__init__(quality=quality, method=method, lossless=lossless)


class JPEG2000(Codec):
    """JPEG 2000. `rate` is the compression ratio against 8-bit RGB (20: 1.2 bits per pixel); without it, lossless (Pillow's default)."""

    kind = "JPEG2000"

    def __init__(self, *, rate: float | None = None, irreversible: bool | None = None) -> None:
        options: Mapping[str, Any] = {}
        if rate is not None:
            if rate <= 0:
                raise UsageError(f"jpeg2000:rate is a compression ratio above 0, not {rate:g}")
            options = {"quality_mode": "rates", "quality_layers": [rate]}
        super().__init__(irreversible=(rate is not None) if irreversible is None else irreversible, **options)


class AVIF(Codec):
    """AVIF. Defaults are Pillow's: quality 75, 4:2:0, speed 6."""

    kind = "AVIF"

    def __init__(self, *, quality: int = 75, subsampling: str = "4:2:0", speed: int = 6) -> None:
        _within("avif:quality", quality, 0, 100)
        # One thread: more change the tiling, and with it the bytes.
        super().__init__(quality=quality, subsampling=subsampling, speed=speed, max_threads=1)
