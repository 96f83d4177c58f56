"""Passes and views: how pixels and tokens come to be, how an extractor sees them, and what a metric needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Pass:
    """How pixels or tokens come to be. Nested; its digest keys the store.

    op: `load` (the input as the protocol prepares it), `run` (encode and decode of `of`), `generate` (images from conditions), or a change of the images of `of`
    (`jpeg`, `noise`, `shift`) or of its tokens (`decode`). args: sorted (name, value) pairs. first: only the first n samples.
    """

    op: str
    of: Pass | None = None
    args: tuple[tuple[str, Any], ...] = ()
    first: int = 0

    def model(self) -> bool:
        """Whether a model takes part: ground truth has none, and is measured once for all models."""
        return self.op in ("run", "decode", "generate") or (self.of is not None and self.of.model())

    def spelled(self) -> str:
        """A readable, unique spelling: ``run(load)``, ``jpeg[quality=75](run(load))``."""
        args = "[" + ",".join(f"{k}={v}" for k, v in self.args) + "]" if self.args else ""
        return (
            f"{self.op}{args}"
            + (f"({self.of.spelled()})" if self.of else "")
            + (f"@{self.first}" if self.first else "")
        )


INPUT = Pass("load")
OUTPUT = Pass("run", INPUT)
GENERATED = Pass("generate")


@dataclass(frozen=True)
class Placement:
    """How a source image was laid on the model's canvas, so that a reconstruction can be put back.

    `source` and `canvas` are (width, height); `box` is (left, top, right, bottom) of the picture on the canvas.
    For a centre crop `box` is the whole canvas and `restorable` is False.
    """

    source: tuple[int, int]
    canvas: tuple[int, int]
    box: tuple[int, int, int, int]
    restorable: bool = True


@dataclass(frozen=True)
class View:
    """Pixels as one extractor wants them; equal views share a forward.

    frame: `model` (the model's canvas: tensors ``[B, 3, H, W]``) or `source` (put back on the source image: a list of uint8
    arrays ``[H, W, 3]``; for INPUT, the source image itself; for GENERATED, the image as it was made). quantise: how floats become 8 bits (`round`, `truncate` of
    255 x, `none`); `reference` says the same of the ground truth ("" = as `quantise`).
    container: what the pixels pass through on the way (`lossless`, `jpeg75` = Pillow's default JPEG for sources stored as JPEG).
    resize, size: generated images of another size are brought to `size` pixels as `resize` says (``fit:library:filter:antialias``); "" leaves them.
    """

    frame: Literal["model", "source"] = "model"
    quantise: Literal["round", "truncate", "none"] = "round"
    reference: Literal["", "round", "truncate", "none"] = ""
    container: Literal["lossless", "jpeg75"] = "lossless"
    filter: str = "lanczos"
    resize: str = ""
    size: int = 0


@dataclass(frozen=True)
class Need:
    """One measurement that a metric asks for: `head` of `extractor`, at a pass, through a view."""

    extractor: str
    head: str
    at: Pass = OUTPUT
    view: View = View()
    args: tuple[tuple[str, Any], ...] = ()
