"""What single tokens, prefixes and seeds do to the decode: sensitivity, coarse-to-fine, adaptive length, ambiguity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric

PROBES = ("probe_images", "probe_seeds", "probe_seed")


def _needs(p: Fields, *heads: str) -> Mapping[str, Need]:
    args = (("images", p["probe_images"]), ("seed", p["probe_seed"]), ("seeds", p["probe_seeds"]))
    return {head: Need("token_probes", head, args=args) for head in heads}


@metric(
    "token_sensitivity",
    needs=lambda p: _needs(p, "sensitivity_l1", "sensitivity_l2", "sensitivity_own", "sensitivity_grid"),
    fields=PROBES,
    title="Change of the decode when one token is replaced by a uniform id: mean over positions, per image",
    source="mean absolute (l1) and root mean square (l2) change in [0, 1]; `own`: the share inside the token's own cell",
    tolerance=1e-2,
)
def token_sensitivity(m: Measurements, p: Fields) -> Iterator[Value]:
    """On the first `probe_images` images of the set. The map over the positions (mean over the images) is in the notes, with the grid's height and width where there is one."""
    grid = [int(n) for n in m["sensitivity_grid"].array().ravel()]
    for name in ("l1", "l2", "own"):
        found = np.asarray(m[f"sensitivity_{name}"].array(), np.float64)
        if not found.size:
            yield Value(
                status="skipped", why="only a single stream of indices can be probed so", slice=f"change={name}"
            )
            continue
        if np.isnan(found).all():
            why = "the tokens are no grid, so none has a cell of its own" if name == "own" else "no change was measured"
            yield Value(status="skipped", why=why, slice=f"change={name}")
            continue
        notes: dict[str, Any] = {
            "profile": [round(float(v), 6) for v in np.nanmean(found, axis=0)],
            "images": len(found),
        }
        if len(grid) == 2:
            notes["grid"] = grid
        per_image = np.nanmean(found, axis=1)
        image = np.arange(len(found))
        yield Value(samples=per_image, image=image, slice=f"change={name}", notes=notes, keep=False)


def _prefix(m: Measurements) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    budgets = m["prefix_budgets"].array().astype(np.int64)
    if not budgets.size:
        return "the model does not decode prefixes", budgets, budgets, budgets
    return "", budgets, m["prefix_mse"].array(), m["prefix_l1"].array()


def _psnr(mse: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        out: np.ndarray = np.minimum(-10 * np.log10(mse), 100.0)
    return out


def needs_prefix(p: Fields) -> Mapping[str, Need]:
    """Prefix decodes of the first batch."""
    return _needs(p, "prefix_budgets", "prefix_mse", "prefix_l1")


@metric(
    "prefix_psnr",
    needs=needs_prefix,
    unit="dB",
    better="higher",
    fields=PROBES,
    title="PSNR of decodes from the first k tokens: the coarse-to-fine curve",
    source="per image against the input, then the mean; on the first batch of images",
    tolerance=1e-3,
)
def prefix_psnr(m: Measurements, p: Fields) -> Iterator[Value]:
    """One value a k, and `all`: the area under the curve over log2 k, which is a mean PSNR."""
    why, budgets, mse, _ = _prefix(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    psnr = _psnr(mse)
    image = np.arange(len(psnr))
    for k, column in zip(budgets.tolist(), psnr.T):
        yield Value(samples=column, image=image, slice=f"k={k}", keep=False)
    curve = {"tokens": budgets.tolist(), "PSNR": psnr.mean(axis=0).tolist()}
    yield Value(samples=area(budgets, psnr), image=image, notes={"curve": curve}, keep=False)


def area(budgets: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Mean quality ``[B]`` of curves ``[B, P]`` over log2 of the budgets, by the trapezium rule."""
    if len(budgets) == 1:
        return quality[:, 0]
    x = np.log2(budgets)
    steps = (quality[:, 1:] + quality[:, :-1]) / 2 * np.diff(x)
    out: np.ndarray = steps.sum(axis=1) / (x[-1] - x[0])
    return out


@metric(
    "prefix_gain",
    needs=needs_prefix,
    unit="dB/token",
    fields=PROBES,
    title="Marginal gain: PSNR per further token between one prefix length and the next",
    source="difference quotients of prefix_psnr",
    tolerance=1e-3,
)
def prefix_gain(m: Measurements, p: Fields) -> Iterator[Value]:
    """A slice per interval of k; an ordered tokenizer's gains fall."""
    why, budgets, mse, _ = _prefix(m)
    if why or len(budgets) < 2:
        yield Value(status="skipped", why=why or "a single budget has no gain")
        return
    gain = np.diff(_psnr(mse), axis=1) / np.diff(budgets)
    for low, high, column in zip(budgets[:-1].tolist(), budgets[1:].tolist(), gain.T):
        yield Value(samples=column, image=np.arange(len(column)), slice=f"k={low}-{high}", keep=False)


@metric(
    "tokens_to_quality",
    needs=needs_prefix,
    unit="tokens",
    better="lower",
    fields=(*PROBES, "quality_gap"),
    title="The least prefix whose PSNR is within a gap of the full length's",
    source="log2-interpolated on the measured prefix lengths",
    tolerance=1e-2,
)
def tokens_to_quality(m: Measurements, p: Fields) -> Iterator[Value]:
    """Per image, for the gap in dB that the protocol states."""
    why, budgets, mse, _ = _prefix(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    psnr = _psnr(mse)
    wanted = psnr[:, -1] - float(p["quality_gap"])
    yield Value(samples=first_above(budgets, psnr, wanted), image=np.arange(len(psnr)), keep=False)


def first_above(budgets: np.ndarray, quality: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The budget at which curves ``[B, P]`` first reach `wanted` ``[B]``, interpolated over log2; inf where they never do."""
    out = np.full(len(quality), np.inf)
    x = np.log2(budgets)
    for b, (curve, goal) in enumerate(zip(quality, wanted)):
        reached = np.flatnonzero(curve >= goal)
        if not reached.size:
            continue
        i = int(reached[0])
        if i == 0:
            out[b] = budgets[0]
        else:
            part = (goal - curve[i - 1]) / (curve[i] - curve[i - 1])
            out[b] = 2 ** (x[i - 1] + part * (x[i] - x[i - 1]))
    return out


@metric(
    "adaptive_length",
    needs=lambda p: {**needs_prefix(p), **_needs(p, "complexity")},
    unit="tokens",
    fields=(*PROBES, "length_errors"),
    title="Tokens until the mean absolute error falls below eps, and whether complex images need more",
    source="KARL (Duggal et al. 2025): eps of 0.03, 0.05, 0.07; complexity is the size of the input as a JPEG",
    tolerance=1e-2,
)
def adaptive_length(m: Measurements, p: Fields) -> Iterator[Value]:
    """eps=e: the mean length over the images that reach e. eps=e;stat=spearman: its rank correlation with complexity."""
    why, budgets, _, l1 = _prefix(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    complexity = m["complexity"].array()
    for eps in p["length_errors"]:
        length = first_above(budgets, -l1, np.full(len(l1), -float(eps)))
        met = np.isfinite(length)
        name = f"eps={eps:g}"
        if not met.any():
            why = f"no image falls below {eps:g}, even with all of its tokens"
            yield Value(status="skipped", why=why, slice=name)
            continue
        notes = {"reached": int(met.sum()), "images": len(met)}
        yield Value(samples=length[met], image=np.flatnonzero(met), slice=name, notes=notes, keep=False)
        if met.sum() > 2 and np.ptp(length[met]) > 0 and np.ptp(complexity[met]) > 0:
            from scipy.stats import spearmanr

            value = float(spearmanr(length[met], complexity[met]).statistic)
            yield Value(value=value, n=int(met.sum()), slice=f"{name};stat=spearman", notes=notes)


@metric(
    "ambiguity",
    needs=lambda p: _needs(p, "ambiguity", "ambiguity_map"),
    fields=PROBES,
    better="lower",
    title="Variance of a pixel over decodes of the same tokens with different seeds",
    source="unbiased variance over `probe_seeds` decodes in [0, 1] units squared, mean over pixels, per image",
    tolerance=1e-2,
)
def ambiguity(m: Measurements, p: Fields) -> Iterator[Value]:
    """How much the tokens leave open; for decoders that sample."""
    found = np.asarray(m["ambiguity"].array(), np.float64)
    if not found.size:
        yield Value(status="skipped", why="the decoder is deterministic: its tokens leave nothing open")
        return
    yield Value(samples=found, image=np.arange(len(found)), notes={"images": len(found)}, keep=False)
