"""Realistic records of models that do not exist, with per-sample values that their rows are really computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vtbench import samples
from vtbench.intervals import bootstrap_mean, jackknife
from vtbench.record import (
    Alarm,
    DatasetInfo,
    Environment,
    Failure,
    ModelInfo,
    Record,
    Row,
    SourceInfo,
    SuiteInfo,
    run_id,
    write,
)

PROTOCOLS = {
    "rgb8": {"input": {"fit": "short-side-crop", "filter": "lanczos"}, "view": {"quantise": "round"}, "reduce": {}},
    "torch-fidelity": {
        "input": {"fit": "short-side-crop", "filter": "lanczos"},
        "view": {"quantise": "round", "network_resize": "tf1"},
        "reduce": {"ddof": 1},
    },
    "clean": {
        "input": {"fit": "short-side-crop", "filter": "lanczos"},
        "view": {"quantise": "round", "network_resize": "bicubic"},
        "reduce": {"ddof": 1},
    },
    "tokbench-light": {
        "input": {"fit": "letterbox", "filter": "lanczos"},
        "view": {"container": "jpeg75"},
        "reduce": {"text_bins": [0.02, 0.03, 0.04, 1]},
    },
}


def make(
    out: Path | None = None,
    name: str = "tiny",
    *,
    params: dict | None = None,
    quality: float = 0.0,
    tokens: tuple[int | None, ...] = (256,),
    bpp: float | None = 0.04,
    n: int = 60,
    dataset: str = "demo",
    suite: str = "demo",
    status: str = "ok",
    seed: int = 0,
    card: dict | None = None,
    revision: str | None = None,
    skipped: bool = True,
) -> Record:
    """One record; `quality` moves every metric (in noise units), images are shared between models so that they pair.

    With `out`, the record and its samples are written there."""
    images = np.random.default_rng(99).normal(size=n)
    own = np.random.default_rng(seed + 1)
    rows, blocks = [], []
    params = params or {}
    ids = np.array([f"set{i % 3}/img{i:04d}" for i in range(n)])
    group = np.arange(n) % 20
    for budget in tokens:
        gain = quality + (0.0 if budget is None else np.log2(budget / 256))
        shared = {"resolution": 256, "tokens": budget, "bpp": None if bpp is None else bpp * (budget or 256) / 256}
        for metric, protocol, better, unit, centre, scale in (
            ("psnr", "rgb8", True, "dB", 22.0, 3.0),
            ("ssim", "rgb8", True, "", 0.6, 0.1),
            ("lpips", "rgb8", False, "", 0.25, -0.05),
        ):
            values = centre + scale * (images + gain * 0.5 + own.normal(size=n) * 0.2)
            interval = bootstrap_mean(values, np.arange(n))
            rows.append(_row(metric, protocol, better, unit, interval, n, shared, status))
            blocks.append(
                {**shared, "protocol": protocol, "metric": metric, "slice": "all", "id": ids, "value": values}
            )
        features = images + own.normal(size=n) * 0.3 - gain * 0.1
        for protocol, shift in (("torch-fidelity", 0.0), ("clean", 0.05)):
            fd = float((features.mean() - 3) ** 2 + shift)
            left = np.array([(features[group != g].mean() - 3) ** 2 + shift for g in range(20)])
            row = _row("fid", protocol, False, "", jackknife(fd, left), n, shared, status)
            rows.append(row.model_copy(update={"groups": left.tolist(), "recommended": protocol == "torch-fidelity"}))
        word_image = np.repeat(np.arange(n), 3)
        correct = (images[word_image] + gain + own.normal(size=3 * n) > 0).astype(float) * 100
        for piece, chosen in (("small", np.arange(3 * n) % 3 == 0), ("large", np.arange(3 * n) % 3 == 1)):
            interval = bootstrap_mean(correct[chosen], word_image[chosen])
            row = _row("t_acc", "tokbench-light", True, "%", interval, int(chosen.sum()), shared, status)
            rows.append(row.model_copy(update={"slice": piece}))
            blocks.append(
                {
                    **shared,
                    "protocol": "tokbench-light",
                    "metric": "t_acc",
                    "slice": piece,
                    "id": ids[word_image[chosen]],
                    "instance": samples.instances(word_image[chosen]),
                    "value": correct[chosen],
                }
            )
        entropy = 10 + gain
        rows.append(
            Row(protocol="rgb8", metric="entropy", value=entropy, ci_low=entropy - 0.1, ci_high=entropy + 0.1, n=n,
                unit="bits", status=status, tolerance=1e-4, **shared)
        )  # fmt: skip
        if skipped:
            rows.append(
                Row(protocol="rgb8", metric="inception_score", status="skipped", why="the weights have no logits", n=0,
                    higher_is_better=True, **shared)
            )  # fmt: skip
    revision = revision if revision is not None else f"sha256:{name}"
    options = {"limit": n} if status == "limited" else {}
    record = Record(
        run_id=run_id(name, revision, params, f"digest-of-{suite}", f"sha256:{dataset}", options),
        status=status,
        started=f"2026-01-01T00:00:{seed:02d}Z",
        finished=f"2026-01-01T00:01:{seed:02d}Z",
        command=f"vtbench reconstruct --model {name} --suite {suite}",
        model=ModelInfo(name=name, revision=revision, params=params, card=card or {}),
        suite=SuiteInfo(name=suite, version=1, digest=f"digest-of-{suite}"),
        dataset=DatasetInfo(name=dataset, revision=f"sha256:{dataset}", n=n),
        options=options,
        protocols=PROTOCOLS,
        rows=rows,
        failures=[Failure(id="set0/broken", stage="load", reason="truncated JPEG")] if status == "partial" else [],
        alarms=[Alarm(name="range", message="the mean colour moved by 0.2")] if status == "partial" else [],
        stages={"encode": 1.5, "inception": 3.25},
        environment=Environment(
            packages={"numpy": "2.0", "torch": "2.9"},
            vtbench=SourceInfo(version="0.1.0", commit="abc1234", dirty=False),
            python="3.11.7",
            device="cpu",
            dtype="float32",
            threads=1,
            batch_size=16,
            seed=0,
        ),
        weights={"inception": "sha256:6726825d"},
    )
    if out is not None:
        write(record, out)
        samples.write(out, record.run_id, blocks)
    return record


def _row(metric, protocol, better, unit, interval, n, shared, status) -> Row:
    return Row(
        protocol=protocol,
        protocol_digest=f"digest-of-{protocol}",
        metric=metric,
        value=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        n=n,
        unit=unit,
        higher_is_better=better,
        status=status,
        tolerance=1e-4,
        **shared,
    )
