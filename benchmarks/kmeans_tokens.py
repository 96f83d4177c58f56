"""A k-means vector quantiser of image patches, as a file for `vtbench tokens --tokens`: the plainest visual tokenizer there is.

    python benchmarks/kmeans_tokens.py FOLDER OUT.npz --codes 1024 --patch 16

Images are cropped to 256 x 256; the codebook is learnt on the patches of every second image and applied to all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}


def patches(path: Path, patch: int) -> np.ndarray:
    """The patches of an image, cropped to the middle square and resized: float32 ``[cells, patch * patch * 3]`` in [0, 1]."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    cells = SIDE // patch
    array = np.asarray(image, dtype=np.float32).reshape(cells, patch, cells, patch, 3) / 255
    return array.transpose(0, 2, 1, 3, 4).reshape(cells * cells, -1)


def nearest(points: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The nearest code of every point."""
    return np.concatenate(
        [
            ((codes**2).sum(axis=1) - 2 * points[start : start + 4096] @ codes.T).argmin(axis=1)
            for start in range(0, len(points), 4096)
        ]
    )


def learn(points: np.ndarray, number: int, rounds: int, seed: int = 0) -> np.ndarray:
    """Lloyd's k-means; a code that owns nothing moves to a random point."""
    rng = np.random.default_rng(seed)
    codes = points[rng.choice(len(points), number, replace=False)].copy()
    for _ in range(rounds):
        owner = nearest(points, codes)
        order = np.argsort(owner, kind="stable")
        first = np.searchsorted(owner[order], np.arange(number))
        size = np.bincount(owner, minlength=number)
        owned = size > 0
        sums = np.add.reduceat(points[order], np.minimum(first, len(points) - 1), axis=0)
        codes[owned] = sums[owned] / size[owned, None]
        codes[~owned] = points[rng.choice(len(points), int((~owned).sum()))]
    return codes


def main() -> None:
    """Read a folder, learn, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    paths = sorted(p for p in given.folder.rglob("*") if p.suffix.lower() in ENDINGS)
    if len(paths) < 2:
        parser.error(f"{given.folder} holds fewer than two images")
    whole = [patches(p, given.patch) for p in paths]
    codes = learn(np.concatenate(whole[::2]), given.codes, given.rounds)
    cells = SIDE // given.patch
    np.savez(
        given.out,
        tokens=np.stack([nearest(p, codes) for p in whole]).astype(np.int32),
        codebook_size=given.codes,
        grid=[cells, cells],
        pixels=SIDE * SIDE,
        codebook=codes,
    )


if __name__ == "__main__":
    main()
