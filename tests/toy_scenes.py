"""Scenes of drawn blobs whose truth is known, and a toy detector that reads them: no network, and no GenEval.

A blob is a square in one of the ten colours; the low bits of its colour say its class. `VTBENCH_PLUGINS` may name this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from vtbench.extractors.detections import Detected, colour_namer, detector
from vtbench.geneval.prompts import CLASSES, COLOURS, Clause, Prompt

SIDE, BLOB = 64, 10
RGB = dict(
    zip(
        COLOURS,
        ((224, 0, 0), (248, 136, 0), (248, 248, 0), (0, 152, 0), (0, 0, 224), (120, 0, 160), (248, 160, 200),
         (112, 64, 16), (8, 8, 8), (240, 240, 240)),
    )
)  # fmt: skip
BACKGROUND = 128


@detector("toy-blobs")
class ToyBlobs:
    """Every connected square that is not background."""

    def identity(self) -> Mapping[str, str]:
        return {"version": "1"}

    def open(self, device: str) -> None:
        pass

    def detect(self, images: Sequence[np.ndarray]) -> list[Detected]:
        out = []
        for image in images:
            numbered, count = ndimage.label((image != BACKGROUND).any(-1))
            rows = []
            for number in range(1, count + 1):
                mask = numbered == number
                ys, xs = np.nonzero(mask)
                r, g, b = (int(v) for v in image[ys[0], xs[0]])
                sure = 0.95 if len(ys) >= BLOB * BLOB else 0.6
                rows.append(
                    (
                        ((r & 7) << 4 | (g & 3) << 2 | (b & 3)) % len(CLASSES),
                        sure,
                        (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1),
                        mask,
                    )
                )
            classes, scores, boxes, masks = zip(*rows) if rows else ((), (), (), ())
            out.append(
                Detected(
                    np.array(classes, int), np.array(scores, np.float32), np.array(boxes, np.float32).reshape(-1, 4),
                    np.array(masks, bool).reshape(-1, *image.shape[:2]),
                )
            )  # fmt: skip
        return out


@colour_namer("toy-median")
class ToyMedian:
    """The colour nearest to the median pixel."""

    def identity(self) -> Mapping[str, str]:
        return {"version": "1"}

    def open(self, device: str) -> None:
        pass

    def colours(self, crops: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
        base = np.array(list(RGB.values()), float)
        medians = np.array([np.median(c.reshape(-1, 3), axis=0) for c in crops])
        return -np.abs(medians[:, None] - base).sum(-1).astype(np.float32)


def draw(things: Sequence[tuple[str, str, int, int]]) -> np.ndarray:
    """A picture uint8 ``[64, 64, 3]`` of (class, colour, x, y)."""
    image = np.full((SIDE, SIDE, 3), BACKGROUND, np.uint8)
    for name, colour, x, y in things:
        number = CLASSES.index(name)
        low = np.array([number >> 4, number >> 2 & 3, number & 3])
        image[y : y + BLOB, x : x + BLOB] = np.array(RGB[colour]) + low
    return image


SLOTS = ((2, 26), (50, 26), (26, 2), (26, 50), (2, 2))
OFFSET = {"left of": 0, "right of": 1, "above": 2, "below": 3}


def scene(prompt: Prompt, right: bool) -> np.ndarray:
    """A picture that holds what a prompt asks for, or one with the fault that its tag is about."""
    first, last = prompt.include[0], prompt.include[-1]
    if prompt.tag == "counting":
        return draw([(first.name, "red", *SLOTS[i]) for i in range(first.count + (not right))])
    if prompt.tag == "position":
        assert last.position is not None
        place = OFFSET[last.position[0]] ^ (not right)
        return draw([(first.name, "red", 26, 26), (last.name, "blue", *SLOTS[place])])
    wanted: list[Clause] = list(prompt.include)
    colours = [c.colour or "green" for c in wanted]
    if not right:
        if prompt.tag == "color_attr":
            colours.reverse()
        elif prompt.tag == "colors":
            colours = ["pink" if colours[0] != "pink" else "blue"]
        else:
            wanted = wanted[1:]
    return draw([(c.name, colour, *SLOTS[i]) for i, (c, colour) in enumerate(zip(wanted, colours))])


def write(root: Path, prompts: Mapping[int, Prompt], right: Mapping[int, int]) -> None:
    """GenEval's layout: of prompt i, the first ``right[i]`` of its four images are right."""
    from PIL import Image

    for number, prompt in prompts.items():
        folder = root / f"{number:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps(json.loads(prompt.metadata)))
        for k in range(4):
            Image.fromarray(scene(prompt, k < right[number])).save(folder / "samples" / f"{k:04d}.png")
