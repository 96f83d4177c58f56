"""Alarms: common mistakes seen in the measurements. Torch-free; every alarm names what it saw, with numbers.

Each looks for a mistake whose undoing makes the images agree with their ground truth better: a model that is merely bad does not gain by being
mirrored or moved by a pixel. Of alarms with one cause only the first is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vtbench.extractors.alarms import MAPS, OFFSETS, PAIR_HEADS, ZOOMS
from vtbench.record import Alarm

if TYPE_CHECKING:
    from vtbench.plan import Plan
    from vtbench.reduce import Reducer

LEAST = 4  # pairs, below which nothing is said
MATCHED = 512  # images whose partner is looked for among all ground truth
SHIFT = 0.03  # of [0, 1], 8 grey levels


def raised(plan: Plan, reducer: Reducer, given: Iterable[str] | None, wanted: Sequence[str]) -> list[Alarm]:
    """Every alarm of a run over pairs. given: the ids of reconstructions that were made elsewhere (None: a model made them);
    wanted: the ids of the ground truth."""
    found: list[Alarm] = []
    ids = [s.id for s in reducer.kept]
    for station in plan.stations:
        if station.extractor == "alarms" and ids:
            found += of_pairs({head: reducer.column(station, head).array() for head in PAIR_HEADS}, ids)
    if given is not None:
        found += of_ids(given, wanted)
    found += of_plan(plan, reducer)
    return list({a.name: a for a in reversed(found)}.values())[::-1]


def of_plan(plan: Plan, reducer: Reducer) -> list[Alarm]:
    """Of the order of samples, where an Inception Score is taken over consecutive parts of it."""
    for cell in plan.cells:
        fields = cell.protocol.fields(cell.resolution)
        if cell.metric.name != "inception_score" or cell.skip or fields["is_order"] != "stored":
            continue
        station, head = cell.needs["fake"]
        column = reducer.column(station, head)
        n, logits = len(column.image), column.array()
        block = int(fields["is_block"]) or -(-n // max(1, int(fields["is_splits"])))
        classes = np.asarray(reducer.table["label"])[column.image]
        if not logits.shape[1]:
            continue  # no logits, no score
        if (classes < 0).all():
            classes = logits.argmax(1)
        found = of_order(classes.tolist(), block)
        if found:
            return found
    return []


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


def _range_slip(seen: Mapping[str, np.ndarray]) -> Alarm | None:
    for column, said in ((4, "(x + 1) / 2 of [0, 1] images"), (5, "[-1, 1] images whose negative half was cut off")):
        ratio, share = _gain(seen["maps"], column)
        if ratio < 0.5 and share >= 0.8:
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
    fake, truth = _unit(thumbs[:, 0]), _unit(thumbs[:, 1])
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(MATCHED, len(ids))).astype(int))
    chosen = chosen[np.abs(fake[chosen]).sum(1) > 0]
    if len(chosen) < LEAST:
        return None
    likeness = fake[chosen] @ truth.T
    own = 1 - likeness[np.arange(len(chosen)), chosen]
    likeness[np.arange(len(chosen)), chosen] = -1
    other = 1 - likeness.max(1)
    wrong = (own > 0.1) & (other < 0.25 * own)
    count = int(wrong.sum())
    if count < max(2, 0.02 * len(chosen)):
        return None
    first = int(np.argmax(wrong))
    a, b = ids[int(chosen[first])], ids[int(likeness[first].argmax())]
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
    truth = _unit(thumbs[:, 1])
    for i in range(len(ids)):
        if thumbs[i, 0].std() < 1:
            continue
        key = thumbs[i, 0].tobytes() + seen["means"][i, :3].tobytes()
        j = first.setdefault(key, i)
        if j != i and float(truth[i] @ truth[j]) < 0.9:
            pairs.append((j, i))
    if pairs:
        a, b = pairs[0]
        yield Alarm(
            name="repeated-images",
            message=f"{len(pairs)} images are copies of another id's, the first: '{ids[b]}' of '{ids[a]}', though their ground truth differs",
            data={"count": len(pairs), "first": [ids[a], ids[b]]},
        )


# ---------------------------------------------------------------------------------------------- sets that are not paired


def of_sets(fake: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> list[Alarm]:
    """Alarms from the heads of the extractor `alarms-set` over two sets."""
    if min(len(fake["means"]), len(truth["means"])) < LEAST:
        return []
    a, b = fake["edges"].astype(np.float64), truth["edges"].astype(np.float64)
    bright = float((a[:, 0] >= 0.49).mean()), float((b[:, 0] >= 0.49).mean())
    dark = float(a[:, 2].mean()), float(b[:, 2].mean())
    if bright[0] >= 0.9 and bright[1] <= 0.1:
        return [
            Alarm(
                name="range-slip",
                message=f"{bright[0]:.0%} of the images have no value below 125 of 255 ({bright[1]:.0%} of the reference): they look like (x + 1) / 2 of [0, 1] images",
                data={"images": bright[0], "reference": bright[1]},
            )
        ]
    if dark[0] > 0.25 and dark[0] > 4 * dark[1]:
        return [
            Alarm(
                name="range-slip",
                message=f"{dark[0]:.0%} of the images' values are 0 ({dark[1]:.0%} of the reference's): they look like [-1, 1] images whose negative half was cut off",
                data={"images": dark[0], "reference": dark[1]},
            )
        ]
    return [x for x in (_set_swap(fake["means"], truth["means"]),) if x]


def _set_swap(fake: np.ndarray, truth: np.ndarray) -> Alarm | None:
    """Red and blue exchanged, where the reference has a colour cast clear enough to tell."""
    a, b = fake.astype(np.float64), truth.astype(np.float64)
    cast = b[:, 0] - b[:, 2], a[:, 0] - a[:, 2]
    errors = [c.std(ddof=1) / np.sqrt(len(c)) for c in cast]
    means = [float(c.mean()) for c in cast]
    if abs(means[0]) < 5 * errors[0] or abs(means[1]) < 5 * errors[1] or means[0] * means[1] > 0:
        return None
    if abs(means[0] + means[1]) > 0.5 * abs(means[0]):
        return None
    return Alarm(
        name="channel-swap",
        message=f"red minus blue is {255 * means[0]:+.1f} of 255 in the reference and {255 * means[1]:+.1f} in the images: they look swapped (BGR read as RGB)",
        data={"reference": means[0], "images": means[1]},
    )


# ---------------------------------------------------------------------------------------------- ids


def of_ids(fake: Iterable[str], truth: Iterable[str]) -> list[Alarm]:
    """Of ids that should be the same: missing ones, or the tail that a dropped last batch leaves out."""
    have, want = set(fake), sorted(truth)
    missing = [i for i in want if i not in have]
    extra = sorted(have - set(want))
    found = []
    if missing:
        tail = missing == want[-len(missing) :] and len(missing) < len(have) and not extra
        sizes = f"{len(want) - len(missing)} of {len(want)}"
        if tail:
            batch = next(
                (b for b in (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2) if len(have) % b == 0 and b > len(missing)), 0
            )
            whole = f", a multiple of {batch}" if batch else ""
            found.append(
                Alarm(
                    name="dropped-last-batch",
                    message=f"there are {sizes} images{whole}, and the last {len(missing)} by id are missing (from '{missing[0]}' on): the last batch looks dropped",
                    data={"missing": len(missing), "wanted": len(want), "batch": batch},
                )
            )
        else:
            found.append(
                Alarm(
                    name="missing-ids",
                    message=f"there are {sizes} images; {len(missing)} ids are missing, the first: {_some(missing)}",
                    data={"missing": len(missing), "wanted": len(want), "first": missing[:3]},
                )
            )
    if extra:
        found.append(
            Alarm(
                name="extra-ids",
                message=f"{len(extra)} images have no ground truth and are left out, the first: {_some(extra)}",
                data={"extra": len(extra), "first": extra[:3]},
            )
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{n}'" for n in names[:3])


def of_counts(fake: int, truth: int) -> list[Alarm]:
    """Of two sets that are not paired: a count just below the reference's that is a whole number of batches."""
    short = truth - fake
    if not 0 < short <= 0.05 * truth:
        return []
    batch = next((b for b in (1024, 512, 256, 128, 64, 32, 16, 8) if fake % b == 0 and truth % b and b > short), 0)
    if not batch:
        return []
    return [
        Alarm(
            name="dropped-last-batch",
            message=f"{fake} images against {truth}: {short} fewer, and a multiple of {batch}: the last batch looks dropped",
            data={"images": fake, "reference": truth, "batch": batch},
        )
    ]


def of_digests(fake: Mapping[str, str], truth: Mapping[str, str]) -> list[Alarm]:
    """Of two sets that are not paired, id -> digest of content: copies inside the images, and images that are the reference's own files."""
    found = []
    first: dict[str, str] = {}
    copies = [(first[d], i) for i, d in fake.items() if first.setdefault(d, i) != i]
    if copies:
        found.append(
            Alarm(
                name="repeated-images",
                message=f"{len(copies)} of {len(fake)} images are copies of another, the first: '{copies[0][1]}' of '{copies[0][0]}'",
                data={"count": len(copies), "first": list(copies[0])},
            )
        )
    known = set(truth.values())
    shared = [i for i, d in fake.items() if d in known]
    if shared:
        found.append(
            Alarm(
                name="shared-images",
                message=f"{len(shared)} of {len(fake)} images are files of the reference itself, the first: '{shared[0]}'",
                data={"count": len(shared), "first": shared[0]},
            )
        )
    return found


# ---------------------------------------------------------------------------------------------- references and order


def of_order(classes: Sequence[int], block: int) -> list[Alarm]:
    """Samples sorted by class (labels, or the network's own classes) under an Inception Score over consecutive parts of `block` images."""
    values = np.asarray(classes)
    values = values[values >= 0]
    n = len(values)
    if n < 2 * LEAST or not 0 < block < n:
        return []
    share = float((values[1:] == values[:-1]).mean())
    expected = float(((np.unique(values, return_counts=True)[1] / n) ** 2).sum())
    kinds = len(np.unique(values))
    inside = np.mean([len(np.unique(values[i : i + block])) for i in range(0, n, block)])
    if share < max(0.5, 3 * expected) or inside > 0.7 * min(kinds, block):
        return []
    return [
        Alarm(
            name="class-sorted",
            message=f"neighbours share a class in {share:.0%} of the cases ({expected:.0%} if shuffled), so a block of {block} images holds {inside:.0f} of {kinds} classes: "
            "an Inception Score over consecutive blocks is far too low; shuffle, or use a protocol with is_order = shuffled",
            data={"share": share, "expected": expected, "block": block},
        )
    ]
