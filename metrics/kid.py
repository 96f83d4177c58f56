"""Kernel Inception distance: the unbiased squared maximum mean discrepancy under a cubic kernel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vtbench.api import Fields, Measurements, Value, metric

from ._features import FIELDS, inception_needs, rows, unusable

_WHOLE = 4000  # up to this many images the kernel is computed once and the subsets are cut out of it


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y / d + 1)^3, float64 ``[n, m]``."""
    return (x @ y.T / x.shape[1] + 1) ** 3


class _Kernels:
    """The kernel between any rows of two samples, computed once where the samples are small."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y
        self.whole: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        if max(len(x), len(y)) <= _WHOLE:
            x, y = x.astype(np.float64), y.astype(np.float64)
            self.whole = kernel(x, x), kernel(y, y), kernel(x, y)

    def of(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(xx, yy, xy) for rows i of x and j of y."""
        if self.whole is not None:
            return self.whole[0][np.ix_(i, i)], self.whole[1][np.ix_(j, j)], self.whole[2][np.ix_(i, j)]
        x, y = self.x[i].astype(np.float64), self.y[j].astype(np.float64)
        return kernel(x, x), kernel(y, y), kernel(x, y)


def group_sums(matrix: np.ndarray, rows_of: np.ndarray, columns_of: np.ndarray, count: int) -> np.ndarray:
    """Sums of a matrix over pairs of groups, ``[G, G]``."""
    groups = np.arange(count)[:, None]
    out: np.ndarray = (groups == rows_of).astype(np.float64) @ matrix @ (groups == columns_of).astype(np.float64).T
    return out


def sums_without(table: np.ndarray) -> np.ndarray:
    """``[1 + G]``: the total of a group table, then the total without each group's row and column."""
    total = table.sum()
    left = total - table.sum(0) - table.sum(1) + np.diagonal(table)
    return np.concatenate([[total], left])


def discrepancies(
    k: tuple[np.ndarray, np.ndarray, np.ndarray], gx: np.ndarray, gy: np.ndarray, count: int
) -> np.ndarray:
    """Unbiased MMD^2 of one subset: ``[1 + G]``, whole and without each group."""
    xx, yy, xy = k
    sums = [
        sums_without(group_sums(xx, gx, gx, count)),
        sums_without(group_sums(yy, gy, gy, count)),
        sums_without(group_sums(xy, gx, gy, count)),
    ]
    out = -2 * sums[2]
    sizes = []
    for matrix, group, total in ((xx, gx, sums[0]), (yy, gy, sums[1])):
        own = np.bincount(group, np.diagonal(matrix), count)
        n = len(group) - np.concatenate([[0], np.bincount(group, minlength=count)])
        sizes.append(n.astype(np.float64))
        off = total - (own.sum() - np.concatenate([[0.0], own]))
        with np.errstate(divide="ignore", invalid="ignore"):
            sums[len(sizes) - 1] = off / (n * (n - 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        out = sums[0] + sums[1] + out / (sizes[0] * sizes[1])
    return out


@metric(
    "kid",
    needs=lambda p: inception_needs(p, "pool3"),
    better="lower",
    fields=(*FIELDS, "kid_subsets", "kid_subset_size", "kid_seed"),
    title="Kernel Inception distance: mean over random subsets of the unbiased squared MMD, cubic kernel",
    source="Binkowski et al. 2018, arXiv 1801.01401; subsets as torch-fidelity draws them",
    tolerance=1e-3,
    compares="sets",
)
def kid(m: Measurements, p: Fields) -> Iterator[Value]:
    """KID; may be slightly negative, since it is unbiased. notes: `std` over the subsets.

    The subsets are drawn without replacement from the output and then from the ground truth, by RandomState(kid_seed). Leave-one-group-out
    values delete the group from every subset. kid_subset_size 0 takes all images at once (kid_subsets is then 1).
    """
    size, subsets = int(p["kid_subset_size"]), int(p["kid_subsets"])
    problem = unusable(m, "fake", "reference", least=max(2, size))
    if problem:
        remark = " (kid_subset_size)" if size and "at least" in problem.why else ""
        yield Value(status="skipped", n=problem.n, why=problem.why + remark)
        return
    x, y = rows(m["fake"]), rows(m["reference"])
    gx, gy = m.group_of(m["fake"]), m.group_of(m["reference"])
    count = int(max(gx.max(), gy.max())) + 1
    kernels = _Kernels(x, y)
    random = np.random.RandomState(int(p["kid_seed"]))
    found = []
    for _ in range(subsets if size else 1):
        i = random.choice(len(x), size, replace=False) if size else np.arange(len(x))
        j = random.choice(len(y), size, replace=False) if size else np.arange(len(y))
        found.append(discrepancies(kernels.of(i, j), gx[i], gy[j], count))
    each = np.array(found)
    mean = each.mean(0)
    yield Value(value=float(mean[0]), n=len(x), groups=mean[1:], notes={"std": float(each[:, 0].std())})
