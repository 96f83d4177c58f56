"""Reference statistics: the mean and covariance of a reference's features, in a file that says under which protocol.

A file of vtbench's own is an ``.npz`` with ``mu`` ``[2048]`` and ``sigma`` ``[2048, 2048]`` (pool3), where measured ``mu_s`` and ``sigma_s`` ``[2023]`` (sFID's), and ``vtbench``:
a JSON text with the protocol's name, digest and fields, the network's digests, the resolution, n, and the dataset's name and revision. Files of clean-fid,
pytorch-fid and ADM's evaluator hold the same arrays and say nothing, so the user has to.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vtbench import npz, parse, registry
from vtbench.atomic import replace_file
from vtbench.errors import BadData, UsageError, VtbenchError
from vtbench.suite import Protocol, protocol_names

ARRAYS = {"pool3": ("mu", "sigma", 2048), "sfid": ("mu_s", "sigma_s", 2023)}
FACTS = "vtbench"
ROWS = "features_"
FACT_KINDS: dict[str, parse.Kind] = {
    "protocol": str, "protocol_digest": str, "network": dict, "resolution": (int, None), "n": int, "dataset": str,
    "dataset_revision": str, "ids": str,
}  # fmt: skip


@dataclass(frozen=True)
class Statistics:
    """What a file holds. moments: head -> (mean, covariance), float64. protocol: the name, said by the file or by the user;
    digest: of that protocol, "" when the user said so. images: whether the file holds images too. features: head -> ``[n, d]`` of every image, of the ids
    `names`, where they were kept."""

    path: Path
    moments: Mapping[str, tuple[np.ndarray, np.ndarray]]
    protocol: str
    digest: str = ""
    network: Mapping[str, str] = field(default_factory=dict)
    resolution: int | None = None
    n: int = 0
    dataset: str = ""
    revision: str = ""
    ids: str = ""
    images: bool = False
    adm: bool = False
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def content(self) -> str:
        """The digest of the means and covariances: the same for one file under any name and in any container."""
        found = hashlib.sha256()
        for head in sorted(self.moments):
            for array in self.moments[head]:
                found.update(f"{head} {array.shape}".encode())
                found.update(np.ascontiguousarray(array).tobytes())
        return f"sha256:{found.hexdigest()}"

    def refusal(self, protocol: Protocol, resolution: int | None, head: str, network: Mapping[str, str]) -> str:
        """Why these statistics cannot stand for the reference under a protocol; empty when they can."""
        if protocol.name != self.protocol and (self.digest or self.protocol not in protocol.statistics):
            return f"{self.path.name} holds statistics under the protocol {self.protocol}, not {protocol.name}"
        if self.digest and protocol.digest() != self.digest:
            return f"{self.path.name} was made under another version of the protocol {self.protocol} ({self.digest}, not {protocol.digest()})"
        if self.digest and resolution != self.resolution:
            return (
                f"{self.path.name} holds statistics at {self.resolution or 'native'} px, not {resolution or 'native'}"
            )
        for part, value in self.network.items():
            if part != "head" and network.get(part) != value:
                return f"{self.path.name} was made with another {part} of the feature network"
        if head not in self.moments:
            return f"{self.path.name} holds no statistics of {head} features"
        return ""


def read_statistics(where: str, said: str | None = None) -> Statistics | None:
    """The statistics in an ``.npz``; None when it holds none, or when `said` is ``images``.

    said: the protocol that the user names for a file that does not say. Raises `BadData` (damaged, pickled, wrong shapes, an indefinite
    covariance) and `UsageError` (no protocol is known, or another one than the file's)."""
    path = Path(where).expanduser()
    if path.suffix != ".npz" or not path.is_file():
        if said not in (None, "images"):
            raise UsageError(f"--reference-protocol {said}: {where} is no .npz of statistics")
        return None
    names = set(npz.members(path))
    if said == "images":
        return None
    if not names & {"mu", "sigma"}:
        if said is not None and "arr_0" in names:
            raise UsageError(
                f"--reference-protocol {said}: {path.name} holds images alone, and no statistics (mu, sigma)",
                "Leave --reference-protocol away",
            )
        return None
    rows_of = {ROWS + head: head for head in ARRAYS} if FACTS in names else {}
    held = npz.load(path, [*(n for a, b, _ in ARRAYS.values() for n in (a, b)), FACTS, *rows_of, "ids"])
    facts = _facts(where, held.pop(FACTS)) if FACTS in names else {}
    kept = {head: held.pop(name) for name, head in rows_of.items() if name in names}
    ids = held.pop("ids", np.zeros(0, "U1"))
    if ids.ndim != 1 or ids.dtype.kind not in "US":
        raise BadData(f"{where}: ids are names [n], not {ids.dtype} {list(ids.shape)}")
    of = tuple(str(i) for i in ids) if kept else ()
    protocol = _protocol_of(path, facts, said, "arr_0" in names)
    for head, rows in kept.items():
        if rows.shape != (len(of), ARRAYS[head][2]) or rows.dtype.kind != "f":
            raise BadData(
                f"{where}: {ROWS}{head} is {rows.dtype} {list(rows.shape)}, not floats [{len(of)}, {ARRAYS[head][2]}]"
            )
    return Statistics(
        path=path,
        moments=_moments(where, held),
        protocol=protocol,
        digest=facts.get("protocol_digest", ""),
        network=facts.get("network", {}),
        resolution=facts.get("resolution"),
        n=facts.get("n", 0),
        dataset=facts.get("dataset", ""),
        revision=facts.get("dataset_revision", ""),
        ids=facts.get("ids", ""),
        images="arr_0" in names,
        adm="mu_s" in names and not facts,
        features=kept,
        names=of,
    )


def _facts(where: str, array: np.ndarray) -> dict[str, Any]:
    """What a file of vtbench's own says of itself."""
    try:
        facts = json.loads(str(array))
    except (ValueError, RecursionError) as error:
        raise BadData(f"{where}: what it says under '{FACTS}' is not JSON: {str(error)[:100]}") from error
    parse.expect(facts, FACT_KINDS, f"{where}: '{FACTS}'", BadData)
    return dict(facts)


def _protocol_of(path: Path, facts: Mapping[str, Any], said: str | None, images: bool) -> str:
    if facts:
        own = str(facts.get("protocol", ""))
        if said is not None and said != own:
            raise UsageError(
                f"{path.name} says that it was made under the protocol {own}, not {said}",
                "Leave --reference-protocol away",
            )
        return own
    if said is None:
        ways = "Name it: --reference-protocol clean (clean-fid's files), pytorch-fid, torch-fidelity or adm"
        raise UsageError(
            f"{path.name} holds statistics and does not say under which protocol they were made",
            ways + (", or images to use its images alone" if images else ""),
        )
    if said.split("+")[0] not in protocol_names():
        from vtbench.errors import UnknownName

        raise UnknownName("protocol", said, protocol_names())
    return said


def _moments(where: str, held: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    gaussian = registry.resolve("vtbench.metrics._frechet:of_statistics")
    found = {}
    for head, (mu, sigma, d) in ARRAYS.items():
        if mu not in held and sigma not in held:
            continue
        if mu not in held or sigma not in held:
            raise BadData(f"{where} has {mu if mu in held else sigma} without {sigma if mu in held else mu}")
        mean, covariance = held[mu], held[sigma]
        if mean.shape != (d,) or covariance.shape != (d, d) or {mean.dtype.kind, covariance.dtype.kind} - set("f"):
            raise BadData(
                f"{where}: {mu} {mean.dtype} {list(mean.shape)} and {sigma} {covariance.dtype} {list(covariance.shape)}, not floats [{d}] and [{d}, {d}]",
                "Statistics are of pool3 features of the FID Inception",
            )
        try:
            gaussian(mean, covariance)
        except BadData as error:
            raise BadData(
                f"{where}: {error.message}", "The file is damaged, or its covariance was made in too low a precision"
            ) from error
        found[head] = (mean.astype(np.float64), covariance.astype(np.float64))
    return found


def moments_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance (ddof 1) of features ``[n, d]``, float64. Raises `BadData` below two rows or for values that are not finite."""
    flat = np.asarray(rows).reshape(len(rows), -1)
    if len(flat) < 2 or not np.isfinite(flat).all():
        raise BadData(f"statistics need finite features of at least 2 images, and there are {len(flat)}")
    shift = flat[:1024].mean(0, dtype=np.float64)
    first, second = np.zeros(flat.shape[1]), np.zeros((flat.shape[1], flat.shape[1]))
    for start in range(0, len(flat), 4096):
        slab = flat[start : start + 4096].astype(np.float64) - shift
        first += slab.sum(0)
        second += slab.T @ slab
    mean = first / len(flat)
    return mean + shift, (second - len(flat) * np.outer(mean, mean)) / (len(flat) - 1)


def write_statistics(
    path: Path,
    features: Mapping[str, np.ndarray],
    protocol: Protocol,
    facts: Mapping[str, Any],
    names: Sequence[str] | None = None,
) -> None:
    """Write features' statistics with everything that a reader must compare. features: head -> ``[n, d]``; facts: `network`, `resolution`,
    `dataset`, `dataset_revision`, `ids`. names: the images' ids in order; with them every image's features are kept too."""
    arrays: dict[str, np.ndarray] = {}
    for head, rows in features.items():
        mu, sigma, _ = ARRAYS[head]
        arrays[mu], arrays[sigma] = moments_of(rows)
        if names is not None:
            arrays[ROWS + head] = np.asarray(rows).reshape(len(rows), -1)
            arrays["ids"] = np.array(names)
    said = {
        "protocol": protocol.name,
        "protocol_digest": protocol.digest(),
        "protocol_fields": {"input": dict(protocol.input), "view": dict(protocol.view)},
        "n": len(next(iter(features.values()))),
        **facts,
    }
    held = io.BytesIO()
    np.savez(held, **arrays, **{FACTS: np.array(json.dumps(said, sort_keys=True))})  # type: ignore[arg-type]
    try:
        replace_file(Path(path), held.getvalue())
    except OSError as error:
        raise VtbenchError(f"cannot write {path}: {error.strerror or error}", "Name another file") from error
