"""A figure for a paper: original, reconstruction and difference, a row an image, two columns a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench.errors import VtbenchError
from vtbench.record import Record
from vtbench.records import label

if TYPE_CHECKING:
    from PIL import Image

CELL, GAP, HEAD = 256, 6, 46
GAIN = 4


def _points(out: Path, record: Record) -> list[Path]:
    folder = out / "images" / record.run_id
    return sorted(p for p in folder.glob("*") if p.is_dir()) if folder.is_dir() else []


def _bpp(record: Record, point: str) -> str:
    resolution, _, tokens = point.partition("-")
    for row in record.rows:
        fits = str(row.resolution or "native") == resolution and (not tokens or tokens == f"{row.tokens}tokens")
        if fits and row.bpp is not None:
            return f"{row.bpp:.3f} bpp"
    return "continuous"


def write_grid(path: str | Path, records: Sequence[Record], out: str | Path, *, rows: int = 4) -> Path:
    """Write the figure (PNG or PDF by its suffix) from the images that the runs kept; differences are amplified 4 times.

    Raises `VtbenchError` when the runs kept no image in common."""
    from PIL import Image, ImageChops, ImageDraw, ImageFont

    out, path = Path(out), Path(path)
    unique = {record.run_id: record for record in records}.values()
    columns = [(record, point) for record in unique for point in _points(out, record)]
    if not columns:
        raise VtbenchError("no images were kept for a figure", "Run with --keep-images sample")
    sets = [{p.name for p in (point / "reconstruction").glob("*.png")} for _, point in columns]
    names = sorted(set.intersection(*sets))[:rows]
    if not names:
        raise VtbenchError("the runs kept no image in common", "Run them with --keep-images all on the same data")
    width = CELL + (2 * CELL + 2 * GAP) * len(columns)
    height = HEAD + (CELL + GAP) * len(names)
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    font, small = ImageFont.load_default(size=18), ImageFont.load_default(size=14)

    def place(image: Image.Image, x: int, y: int) -> None:
        fitted = image.copy()
        fitted.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        page.paste(fitted, (x + (CELL - fitted.width) // 2, y + (CELL - fitted.height) // 2))

    draw.text((0, 2), "original", fill="black", font=font)
    for i, name in enumerate(names):
        y = HEAD + i * (CELL + GAP)
        for n, (record, point) in enumerate(columns):
            x = CELL + GAP + n * (2 * CELL + 2 * GAP)
            truth = Image.open(point / "original" / name).convert("RGB")
            back = Image.open(point / "reconstruction" / name).convert("RGB")
            if n == 0:
                place(truth, 0, y)
            if i == 0:
                draw.text((x, 2), label(record), fill="black", font=font)
                draw.text((x, 25), f"{point.name}, {_bpp(record, point.name)}", fill="black", font=small)
                draw.text((x + CELL + GAP, 25), f"difference x {GAIN}", fill="black", font=small)
            place(back, x, y)
            difference = ImageChops.difference(truth, back).point([min(255, GAIN * v) for v in range(256)] * 3)
            place(difference, x + CELL + GAP, y)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path
