"""Alarms: common mistakes seen in the measurements, the ids and the reference. Torch-free; every alarm names what it saw, with numbers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vtbench.alarms_pairs import LEAST, of_pairs
from vtbench.extractors.alarms import PAIR_HEADS
from vtbench.record import Alarm

if TYPE_CHECKING:
    from vtbench.plan import Plan
    from vtbench.reduce import Reducer
    from vtbench.reference import Statistics


VALIDATION = re.compile(r"(^|/)ILSVRC2012_val_\d{8}")
TRAINING = re.compile(r"(^|/)n\d{8}_\d+(_n\d{8})?$")


def ids_digest(ids: Iterable[str]) -> str:
    """Digest of a set of ids."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


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


# ---------------------------------------------------------------------------------------------- sets that are not paired


def of_sets(fake: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> list[Alarm]:
    """Alarms from the heads of the extractor `alarms-set` over two sets."""
    if min(len(fake["means"]), len(truth["means"])) < LEAST:
        return []
    a, b = _varied(fake["edges"]), _varied(truth["edges"])
    if min(len(a), len(b)) < LEAST:
        return [x for x in (_set_swap(fake["means"], truth["means"]),) if x]
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


def _varied(edges: np.ndarray) -> np.ndarray:
    """The rows of images that are not of one colour: of a constant image nobody can tell which range it was meant in."""
    rows = edges.astype(np.float64)
    return rows[rows[:, 1] - rows[:, 0] > 2 / 255]


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


def of_reference(
    fake: Sequence[str], truth: Sequence[str], statistics: Statistics | None, *, reconstructions: bool
) -> list[Alarm]:
    """Of a reference that is not the reconstructions' own originals. fake, truth: ids that are not paired; statistics: in place of the
    reference's images; reconstructions: whether the suite says that the images are. ImageNet's validation ids say so too."""
    validation = sum(bool(VALIDATION.search(i)) for i in fake)
    if not (reconstructions or validation > len(fake) / 2):
        return []
    if statistics and statistics.ids == ids_digest(fake):
        return []
    why = "the suite measures reconstructions" if reconstructions else ""
    why = why or f"{validation} of {len(fake)} ids are ImageNet's validation images"
    training = sum(bool(TRAINING.search(i)) for i in truth)
    if statistics and statistics.adm:
        what = (
            f"{statistics.path.name} is laid out as ADM's batch for generated images (statistics of the training set)"
        )
    elif statistics:
        what = f"{statistics.path.name} holds statistics of {statistics.dataset or 'images that it does not name'}"
    elif training > len(truth) / 2:
        what = f"{training} of {len(truth)} ids of the reference are ImageNet's training images"
    else:
        what = f"the reference's ids are others (such as '{truth[0]}')"
    return [
        Alarm(
            name="other-reference",
            message=f"{why}, and {what}: an rFID's reference is the same images, cropped alike",
            data={"statistics": statistics.path.name if statistics else "", "training": training},
        )
    ]
