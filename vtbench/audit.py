"""`audit`: our values beside those of the field's packages, on the user's own images and machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vtbench import peers
from vtbench.data import Dataset, open_dataset, prepare
from vtbench.errors import BadSample, MissingWeights, UnknownName, UsageError
from vtbench.evaluation import Evaluator
from vtbench.explanation import suite_of
from vtbench.pairing import paired
from vtbench.peers import CannotRun, Images, Theirs
from vtbench.places import place
from vtbench.progress import Silent
from vtbench.record import Record, plain, write
from vtbench.scorer import Scorer
from vtbench.suite import Suite, SuiteMetric, load_protocol

FEATURES = 1e-5
"""Agreement of features, relative to their norm."""
TOLERANCE = {"fid": 1e-3, "kid": 1e-3, "psnr": 1e-5, "ssim": 1e-4, "lpips": 1e-4}
"""Relative agreement of a metric's value."""
SINGULAR = 2e-2
"""Of a Fréchet distance with n at most d, where a peer takes the matrix square root of a singular product: its own error. Features tell more there."""
BY_EIGENVALUES = ("torch-fidelity", "torchmetrics")


@dataclass(frozen=True)
class Check:
    """One value held against one peer's. tolerance: relative; ok: None when it was not run, with why. remark: what of the peer ran."""

    peer: str
    version: str
    metric: str = ""
    protocol: str = ""
    ours: float | None = None
    theirs: float | None = None
    difference: float | None = None
    tolerance: float | None = None
    ok: bool | None = None
    why: str = ""


@dataclass
class Certificate:
    """All checks of an audit, and the record that holds it."""

    checks: list[Check]
    n: int
    paired: bool
    record: Record
    digest: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def agrees(self) -> bool:
        """Whether something was checked and nothing disagrees."""
        return any(c.ok for c in self.checks) and not any(c.ok is False for c in self.checks)


def _write(dataset: Dataset, ids: Sequence[str], folder: Path, resolution: int) -> None:
    from PIL import Image

    samples = {s.id: s for s in dataset.samples}
    fields = dict(load_protocol("torch-fidelity").input)
    folder.mkdir(parents=True)
    for i, name in enumerate(ids):
        pixels, _ = prepare(samples[name].image(exif="ignore"), fields, resolution)
        array = (pixels * 255).round().astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(array).save(folder / f"{i:06d}.png")


def _from_places(fake: str, reference: str, scratch: Path, limit: int | None, resolution: int | None) -> Images:
    """Both sides prepared and written; the same ids make pairs. Raises `BadSample` for an image that cannot be read."""
    sides = [open_dataset(where) for where in (fake, reference)]
    ids = [[s.id for s in d.samples] for d in sides]
    pairs = paired(ids[0], ids[1])
    if pairs:
        both = sorted(set(ids[0]) & set(ids[1]))
        ids = [both, both]
    if limit:
        ids = [names[:limit] for names in ids]
    if min(map(len, ids)) < 2:
        raise UsageError("an audit needs at least 2 images on each side")
    size = resolution or min(next(s for s in sides[0].samples if s.id == ids[0][0]).image(exif="ignore").size)
    for dataset, names, folder in zip(sides, ids, ("fake", "reference")):
        _write(dataset, names, scratch / folder, size)
    return Images(scratch / "fake", scratch / "reference", pairs)


def _from_model(
    model: str, scratch: Path, limit: int | None, resolution: int | None, options: Mapping[str, Any]
) -> Images:
    """A model's reconstructions and their inputs, written as 8-bit images."""
    suite = suite_of(["psnr"], ["vtbench"], given=False, resolution=resolution or 256)
    result = Evaluator(suite, out=str(scratch / "run"), keep_images="all", limit=limit, baselines=False, **options)(
        model
    )
    if result.record.failures:
        first = result.record.failures[0]
        raise BadSample(f"{first.id}: {first.reason}")
    kept = next((scratch / "run" / "images" / result.record.run_id).iterdir())
    for name, folder in (("reconstruction", "fake"), ("original", "reference")):
        (scratch / folder).mkdir()
        for i, path in enumerate(sorted((kept / name).glob("*.png"))):
            path.rename(scratch / folder / f"{i:06d}.png")
    return Images(scratch / "fake", scratch / "reference", True)


def _suite(n: int, wanted: Sequence[str], pairs: bool) -> tuple[Suite, tuple[str, int, int]]:
    """What we measure for the peers that are wanted; and our KID protocol, with its subsets and their size."""
    size = min(1000, n)
    kid = "torch-fidelity" if n >= 1000 else f"torch-fidelity+kid_subset_size={size}+kid_subsets=10"
    own = {
        "torch-fidelity": ["torch-fidelity"],
        "clean-fid": ["clean"],
        "pytorch-fid": ["pytorch-fid"],
        "torchmetrics": ["torchmetrics"],
    }
    fid = [p for name in wanted for p in own.get(name, [])]
    lists = {"fid": fid, "kid": [kid] if "torch-fidelity" in wanted else []}
    if pairs:
        borders = ["vtbench+ssim_border=valid", "seed-voken"] if "scikit-image" in wanted else []
        lists |= {"psnr": ["vtbench"], "ssim": ["vtbench", *borders], "lpips": ["vtbench"] if "lpips" in wanted else []}
    protocols = {p: load_protocol(p) for names in lists.values() for p in names}
    kid_name = protocols[kid].name if kid in protocols else kid
    entries = tuple(
        SuiteMetric(m, tuple(protocols[p].name for p in names), protocols[names[0]].name)
        for m, names in lists.items()
        if names
    )
    suite = Suite(
        name="audit",
        version=1,
        task="score",
        resolutions=(0,),
        metrics=entries,
        protocols={p.name: p for p in protocols.values()},
    )
    return suite, (kid_name, 100 if n >= 1000 else 10, size)


def _compare(name: str, version: str, theirs: Theirs, scorer: Scorer, record: Record, n: int) -> list[Check]:
    rows = {(r.metric, r.protocol): r for r in record.rows if r.slice in ("all", "mean")}
    out = []
    for protocol, features in theirs.features.items():
        ours = _features(scorer, protocol)
        if ours is None:
            continue
        error = max(
            float(np.linalg.norm(a - b, axis=1).max() / np.linalg.norm(b, axis=1).mean())
            for a, b in zip(ours, features)
        )
        out.append(
            Check(name, version, "features", protocol, None, None, error, FEATURES, error <= FEATURES, theirs.remark)
        )
    for (metric, protocol), value in theirs.values.items():
        row = rows.get((metric, protocol))
        if row is None or row.value is None:
            why = row.why if row is not None else "not measured"
            out.append(Check(name, version, metric, protocol, theirs=value, why=f"ours: {why}"))
            continue
        tolerance, remark = TOLERANCE[metric], theirs.remark if not out else ""
        if metric == "fid" and n <= 2048 and name not in BY_EIGENVALUES:
            tolerance = SINGULAR
            remark = "; ".join(filter(None, (remark, "with n at most 2048 its matrix root may be off by a percent")))
        both_infinite = np.isinf(value) and np.isinf(row.value) and value == row.value
        difference = 0.0 if both_infinite else abs(row.value - value)
        small = 1e-6 if metric != "fid" else 1e-3
        ok = bool(difference <= tolerance * abs(value) + small)
        out.append(Check(name, version, metric, protocol, row.value, value, difference, tolerance, ok, remark))
    return out


def _features(scorer: Scorer, protocol: str) -> tuple[np.ndarray, np.ndarray] | None:
    assert scorer.last is not None
    plan, reducer = scorer.last
    for cell in plan.cells:
        if cell.metric.name == "fid" and cell.protocol.name == protocol and not cell.skip:
            found = tuple(reducer.column(*cell.needs[side]).array() for side in ("fake", "reference"))
            return found[0], found[1]
    return None


def audit(
    fake: str | None = None,
    reference: str | None = None,
    *,
    model: str | None = None,
    which: Sequence[str] = (),
    limit: int | None = 64,
    resolution: int | None = None,
    out: str = "results",
    talk: Silent | None = None,
    **options: Any,
) -> Certificate:
    """Run the installed peers and ourselves on the same 8-bit images. Either two places (the same ids make pairs), or a model with `data`.

    which: the peers wanted (all without it). limit: images a side; peers are slow. The certificate goes into the record's
    ``environment.more["audit"]``."""
    talk = talk or Silent()
    for name in which:
        if name not in peers.PEERS:
            raise UnknownName("peer", name, peers.PEERS)
    versions = peers.installed(which)
    with tempfile.TemporaryDirectory(prefix="vtbench-audit-") as folder:
        scratch = Path(folder)
        if model is not None:
            images = _from_model(model, scratch, limit, resolution, {**options, "talk": talk})
        elif fake is not None and reference is not None:
            images = _from_places(fake, reference, scratch, limit, resolution)
        else:
            raise UsageError(
                "audit takes outputs and their ground truth, or --model with --data", "vtbench audit FAKE REFERENCE"
            )
        n = min(len(list(f.glob("*.png"))) for f in (images.fake, images.reference))
        suite, kid = _suite(n, [name for name, v in versions.items() if v], images.paired)
        given = {k: v for k, v in options.items() if k in ("device", "batch_size")}
        scorer = Scorer(
            str(images.fake), str(images.reference), suite, out=out, talk=talk, pairing="ids" if images.paired else "none",
            name=model or Path(str(fake)).name, fresh=True, alarms=False, **given,
        )  # fmt: skip
        record = scorer().record
        checks: list[Check] = []
        for name, version in versions.items():
            if not version:
                checks.append(Check(name, "", why=f"not installed: pip install {name}"))
                continue
            talk.say(f"{name} {version}")
            checks += _run(name, version, images, scratch, kid, scorer, record, n)
    certificate = Certificate(checks, n, images.paired, record)
    held = {"n": n, "paired": images.paired, "agrees": certificate.agrees(), "checks": [asdict(c) for c in checks]}
    more = {**record.environment.more, "audit": plain(json.loads(json.dumps(plain(held))))}
    environment = record.environment.model_copy(update={"more": more})
    certificate.record = record.model_copy(update={"environment": environment})
    write(certificate.record, place(out))
    return certificate


def _run(
    name: str,
    version: str,
    images: Images,
    scratch: Path,
    kid: tuple[str, int, int],
    scorer: Scorer,
    record: Record,
    n: int,
) -> list[Check]:
    import torch

    grad = torch.is_grad_enabled()
    try:
        theirs = peers.PEERS[name][1](images, scratch, kid)
    except (CannotRun, MissingWeights) as error:
        return [Check(name, version, why=str(error))]
    except (ImportError, RuntimeError, ValueError, TypeError, AttributeError, OSError) as error:
        return [Check(name, version, why=f"it failed: {type(error).__name__}: {error}")]
    finally:
        torch.set_grad_enabled(grad)
    return _compare(name, version, theirs, scorer, record, n)
