"""Alarms of pairs: mistakes whose undoing makes the images agree with their ground truth better. A model that is merely bad does not gain by being
mirrored or moved by a pixel. Of alarms with one cause only the first is raised. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vtbench.extractors.alarms import MAPS, OFFSETS, ZOOMS
from vtbench.record import Alarm

LEAST = 4  # pairs, below which nothing is said
MATCHED = 512  # images whose partner is looked for among all ground truth
SLAB = 65_536  # thumbnails that are floats at a time
SHIFT = 0.03  # of [0, 1], 8 grey levels
FLAT = 2.0  # grey levels: the spread of a thumbnail below which an image shows nothing


def of_pairs(seen: Mapping[str, np.ndarray], ids: Sequence[str]) -> list[Alarm]:
    """Alarms from the heads of the extractor `alarms` over paired images; rows in the order of `ids`."""
    if len(ids) < LEAST:
        return []
    for look in (_range_slip, _channel_swap, _mirrored, _offset, _crop):
        found = look(seen)
        if found:
            return [found, *_repeated(seen, ids)]
    return [a for a in (_shuffled(seen, ids) or _colour_shift(seen), *_repeated(seen, ids)) if a]


def _gain(errors: np.ndarray, column: int) -> tuple[float, float]:
    """(error after undoing over error before, share of images that gain), over images where the two differ."""
    before, after = errors[:, 0].astype(np.float64), errors[:, column].astype(np.float64)
    differ = np.abs(before - after) > 1e-6
    if not differ.sum() >= max(LEAST, len(errors) // 10) or before.sum() <= 0:
        return 1.0, 0.0
    return float(after[differ].sum() / max(before[differ].sum(), 1e-12)), float((after < before)[differ].mean())


def _contrast(thumbs: np.ndarray) -> tuple[np.ndarray, float]:
    """(which pairs vary on both sides, the contrast of those images in terms of their ground truth's: the slope within images).

    A constant image that is another grey than its ground truth has no range that could have slipped; nor has one that is merely brighter."""
    told, product, square = np.zeros(len(thumbs), bool), 0.0, 0.0
    for start in range(0, len(thumbs), SLAB):
        part = thumbs[start : start + SLAB].reshape(-1, 2, thumbs[0, 0].size).astype(np.float32)
        part -= part.mean(2, keepdims=True)
        varies = (part.std(2) >= (FLAT / 2, FLAT)).all(1)
        told[start : start + SLAB] = varies
        product += float((part[varies, 0] * part[varies, 1]).sum())
        square += float((part[varies, 1] ** 2).sum())
    return told, product / square if square else 0.0


def _range_slip(seen: Mapping[str, np.ndarray]) -> Alarm | None:
    told, slope = _contrast(seen["thumbs"])
    if told.sum() < LEAST:
        return None
    maps = seen["maps"][told]
    for column, said in ((4, "(x + 1) / 2 of [0, 1] images"), (5, "[-1, 1] images whose negative half was cut off")):
        ratio, share = _gain(maps, column)
        if ratio < 0.5 and share >= 0.8 and (column == 5 or slope < 0.75):
            return Alarm(
                name="range-slip",
                message=f"the images look like {said}: undoing it leaves {ratio:.0%} of the squared error, in {share:.0%} of the images",
                data={"mistake": MAPS[column], "ratio": ratio, "share": share},
            )
    return None


def _channel_swap(seen: Mapping[str, np.ndarray]) -> Alarm | None:
    ratio, share = _gain(seen["maps"], 1)
    if ratio < 0.9 and share >= 0.75:
        return Alarm(
            name="channel-swap",
            message=f"red and blue look swapped (BGR read as RGB): swapping them leaves {ratio:.0%} of the squared error, in {share:.0%} of the images",
            data={"ratio": ratio, "share": share},
        )
    return None


def _mirrored(seen: Mapping[str, np.ndarray]) -> Alarm | None:
    for column in (2, 3):
        ratio, share = _gain(seen["maps"], column)
        if ratio < 0.8 and share >= 0.75:
            return Alarm(
                name="flip",
                message=f"the images look {MAPS[column]}: undoing it leaves {ratio:.0%} of the squared error, in {share:.0%} of the images",
                data={"mistake": MAPS[column], "ratio": ratio, "share": share},
            )
    return None


def _offset(seen: Mapping[str, np.ndarray]) -> Alarm | None:
    errors = seen["offsets"]
    errors = errors[np.isfinite(errors).all(1)]
    if len(errors) < LEAST:
        return None
    best = 1 + int(np.argmin(errors[:, 1:].sum(0)))
    ratio, share = _gain(errors, best)
    if ratio < 0.97 and share >= 0.9:
        down, right = OFFSETS[best]
        way = " and ".join(f"{abs(n)} pixel {word}" for n, word in ((down, _way(down, "down", "up")), (right, _way(right, "right", "left"))) if n)  # fmt: skip
        return Alarm(
            name="offset",
            message=f"the images lie {way} of their ground truth: moving them back leaves {ratio:.0%} of the squared error, in {share:.0%} of them",
            data={"down": down, "right": right, "ratio": ratio, "share": share},
        )
    return None


def _way(number: int, positive: str, negative: str) -> str:
    return positive if number > 0 else negative


def _crop(seen: Mapping[str, np.ndarray]) -> Alarm | None:
    errors = seen["zooms"].astype(np.float64)
    best = errors[:, 1:].argmin(1) + 1
    least = errors[np.arange(len(errors)), best]
    gains = least < 0.5 * errors[:, 0]
    share = float(gains.mean())
    if share < 0.6 or not least.sum() < 0.6 * errors[:, 0].sum():
        return None
    names, counts = np.unique(best[gains], return_counts=True)
    across, down = ZOOMS[int(names[counts.argmax()])]
    return Alarm(
        name="crop",
        message=f"the ground truth is not cropped like the images: {share:.0%} of them fit better when scaled, "
        f"mostly by {across:.2f} across and {down:.2f} down; prepare both sides the same way",
        data={"share": share, "across": across, "down": down},
    )


def _unit(thumbs: np.ndarray) -> np.ndarray:
    """Thumbnails ``[n, d]`` without mean, of length 1; zeros for flat ones."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    size = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(size > 16, flat / np.maximum(size, 1e-6), 0)


def _shuffled(seen: Mapping[str, np.ndarray], ids: Sequence[str]) -> Alarm | None:
    thumbs = seen["thumbs"]
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(MATCHED, len(ids))).astype(int))
    fake = _unit(thumbs[chosen, 0])
    chosen, fake = chosen[np.abs(fake).sum(1) > 0], fake[np.abs(fake).sum(1) > 0]
    if len(chosen) < LEAST:
        return None
    own, best, whose = np.zeros(len(chosen)), np.full(len(chosen), -1.0), np.zeros(len(chosen), int)
    for start in range(0, len(ids), SLAB):  # of a million images, as floats, a part at a time
        likeness = fake @ _unit(thumbs[start : start + SLAB, 1]).T
        here = np.flatnonzero((chosen >= start) & (chosen < start + SLAB))
        own[here] = 1 - likeness[here, chosen[here] - start]
        likeness[here, chosen[here] - start] = -1
        nearest = likeness.argmax(1)
        found = likeness[np.arange(len(chosen)), nearest]
        whose = np.where(found > best, start + nearest, whose)
        best = np.maximum(best, found)
    other = 1 - best
    wrong = (own > 0.1) & (other < 0.25 * own)
    count = int(wrong.sum())
    if count < max(2, 0.02 * len(chosen)):
        return None
    first = int(np.argmax(wrong))
    a, b = ids[int(chosen[first])], ids[int(whose[first])]
    return Alarm(
        name="shuffled-pairs",
        message=f"{count} of {len(chosen)} images look like another image's ground truth, the first: '{a}' shows what '{b}' should",
        data={"count": count, "looked_at": len(chosen), "first": [a, b]},
    )


def _colour_shift(seen: Mapping[str, np.ndarray]) -> Alarm | None:
    """A shift that no loss of saturation explains: it shows in the mean, and in the cast of a picture that is grey in the ground truth."""
    means = seen["means"].astype(np.float64)
    fake, truth = means[:, :3], means[:, 3:]
    grey_fake, grey_truth = fake.mean(1), truth.mean(1)
    shift = np.full(3, (grey_fake - grey_truth).mean())
    tint_fake, tint_truth = fake - grey_fake[:, None], truth - grey_truth[:, None]
    for c in range(3):
        x, y = tint_truth[:, c], tint_fake[:, c]
        spread = ((x - x.mean()) ** 2).sum()
        slope = float(np.clip(((x - x.mean()) * y).sum() / spread, 0, 1)) if spread > 1e-9 and len(x) >= 8 else 1.0
        cast, plain = y.mean() - slope * x.mean(), y.mean() - x.mean()
        shift[c] += cast if abs(cast) < abs(plain) else plain
    largest = float(np.abs(shift).max())
    if largest <= (SHIFT if len(means) >= 8 else 2 * SHIFT):
        return None
    levels = ", ".join(f"{name} {255 * s:+.1f}" for name, s in zip(("red", "green", "blue"), shift))
    return Alarm(
        name="colour-shift",
        message=f"the images' mean colour is off their ground truth's by {levels} of 255 grey levels",
        data={"red": shift[0], "green": shift[1], "blue": shift[2]},
    )


def _repeated(seen: Mapping[str, np.ndarray], ids: Sequence[str]) -> Iterator[Alarm]:
    """One image under several ids whose ground truth differs."""
    thumbs = seen["thumbs"]
    first: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    busy = np.concatenate(
        [thumbs[s : s + SLAB, 0].reshape(-1, thumbs[0, 0].size).std(1) for s in range(0, len(ids), SLAB)]
    )
    for i in np.flatnonzero(busy >= 1).tolist():
        key = thumbs[i, 0].tobytes() + seen["means"][i, :3].tobytes()
        j = first.setdefault(key, i)
        if j != i:
            truth = _unit(thumbs[[i, j], 1])
            if float(truth[0] @ truth[1]) < 0.9:
                pairs.append((j, i))
    if pairs:
        a, b = pairs[0]
        yield Alarm(
            name="repeated-images",
            message=f"{len(pairs)} images are copies of another id's, the first: '{ids[b]}' of '{ids[a]}', though their ground truth differs",
            data={"count": len(pairs), "first": [ids[a], ids[b]]},
        )
