"""Reconstructions kept as PNG beside their originals, for figures and reports."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.api import GENERATED, OUTPUT
from vtbench.atomic import replace_file
from vtbench.data import restore
from vtbench.geneval.results import file_name
from vtbench.plan import Plan, Prepared
from vtbench.view import Item, to_bytes

if TYPE_CHECKING:
    import torch

    from vtbench.data import Dataset
    from vtbench.options import Options

CONDITIONS = "conditions.jsonl"
SAMPLE = 16
"""Images that ``--keep-images sample`` keeps."""

Point = tuple[Prepared, "int | None"]
"""An operating point: how inputs are prepared, and the budget."""


@dataclass
class Keep:
    """What is kept, and where: ``folder/POINT/{original,reconstruction}/ID.png``, of generators ``folder/POINT/generated/ID.png``, of
    GenEval's prompts ``folder/POINT/generated/NNNNN/samples/MMMMM.png`` with their ``metadata.jsonl``.

    ids: only these samples (None: all)."""

    folder: Path
    points: Mapping[Point, str]
    ids: frozenset[str] | None = None

    @classmethod
    def asked(cls, options: Options, plan: Plan, dataset: Dataset, folder: Path) -> Keep | None:
        """What the options ask to be kept; None for nothing."""
        how = "sample" if options.keep_images == "none" and options.grid else options.keep_images
        points: dict[Point, str] = {}
        # Where every row is skipped the images may still be wanted, to be judged elsewhere.
        needs = [(s.prepared, s.at, s.budget) for cell in plan.cells for s, _ in cell.needs.values()]
        for prepared, at, budget in [point[:3] for point in plan.operating_points()] or needs:
            if at in (OUTPUT, GENERATED):
                point = f"{prepared.resolution or 'native'}" + (f"-{budget}tokens" if budget is not None else "")
                if point not in points.values():
                    points[prepared, budget] = point
        if how == "none" or not points:
            return None
        ids = None
        if how == "sample":
            ranked = sorted((s.id for s in dataset.samples), key=lambda i: hashlib.sha256(i.encode()).hexdigest())
            ids = frozenset(ranked[:SAMPLE])
        return cls(folder, points, ids)

    def paths(self, sample: Any, point: Point) -> tuple[Path, ...]:
        """The original's and the reconstruction's file, or the generated one's."""
        name = file_name(sample.id) if "geneval" in sample.meta else sample.id.replace("/", "__") + ".png"
        kinds = ("generated",) if point[0].generated else ("original", "reconstruction")
        return tuple(self.folder / self.points[point] / kind / name for kind in kinds)

    def lacks(self, sample: Any, points: Sequence[Point] | None = None) -> bool:
        """Whether a sample is wanted and not there yet, at any of the points."""
        if self.ids is not None and sample.id not in self.ids:
            return False
        chosen = points if points is not None else list(self.points)
        return any(not path.is_file() for point in chosen for path in self.paths(sample, point))

    def describe(self, conditions: Iterable[Any]) -> None:
        """Write what a generator's kept images were made from: ``POINT/conditions.jsonl``, a line each with `id`, and `label` or `prompt`."""
        lines = []
        for sample in conditions:
            if self.ids is None or sample.id in self.ids:
                facts = {"id": sample.id, "label": sample.label, "prompt": sample.caption}
                lines.append(json.dumps({k: v for k, v in facts.items() if v is not None}, ensure_ascii=False))
        for name in self.points.values():
            replace_file(self.folder / name / CONDITIONS, ("\n".join(lines) + "\n").encode())

    def wants(self, point: Point, items: Sequence[Item]) -> bool:
        """Whether any of these samples is still to be written at a point."""
        return point in self.points and any(self.lacks(item.sample, [point]) for item in items)

    def write(self, point: Point, items: Sequence[Item], pixels: torch.Tensor) -> None:
        """Write what is lacking; restored to the source image where the preparation allows it, else on the model's canvas."""
        from PIL import Image

        for array, item in zip(to_bytes(pixels, "round"), items):
            if not self.lacks(item.sample, [point]):
                continue
            pictures: tuple[np.ndarray, ...] = (array,)
            if item.pixels is not None and item.placement is not None:
                pictures = (item.pixels * 255).round().astype(np.uint8).transpose(1, 2, 0), array
                if item.placement.restorable:
                    pictures = item.source, restore(array, item.placement)
            for path, picture in zip(self.paths(item.sample, point), pictures):
                file = io.BytesIO()
                Image.fromarray(picture).save(file, format="PNG")
                replace_file(path, file.getvalue(), durable=False)
            if "geneval" in item.sample.meta:
                beside = self.paths(item.sample, point)[0].parent.parent / "metadata.jsonl"
                replace_file(beside, f"{item.sample.meta['geneval']}\n".encode(), durable=False)
