"""Every image protocol names what its metrics read, and equal views share one forward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtbench import registry
from vtbench.suite import load_protocol, load_suite, protocol_names, suite_names

IMAGE = {
    "fd_dinov2", "cmmd", "dino_cosine", "clip_cosine", "dreamsim",
    "psnr", "ssim", "ms_ssim", "lpips", "mse", "mae", "fid", "sfid", "kid",
    "inception_score", "precision", "recall", "density", "coverage",
}  # fmt: skip
NAMES = [n for n in protocol_names() if IMAGE & set(load_protocol(n).metrics)]


@pytest.mark.parametrize("name", NAMES)
def test_protocol_has_every_field_of_its_metrics(name):
    protocol = load_protocol(name)
    assert protocol.title and protocol.source
    fields = protocol.fields(256)
    for each in protocol.metrics:
        metric = registry.metric(each)
        missing = [f for f in metric.fields if f not in fields]
        assert not missing, f"{name} lacks {missing} for {each}"
        for need in metric.needs(fields).values():
            registry.extractor(need.extractor, dict(need.args))


@pytest.mark.parametrize("name", NAMES)
def test_protocol_prepares_a_picture(name):
    from vtbench.data import prepare

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    asked = load_protocol(name).input
    pixels, _ = prepare(picture, asked, 64)
    assert (
        pixels.shape == ((3, 80, 100) if asked["fit"] == "none" else (3, 64, 64))
        and pixels.min() >= 0
        and pixels.max() <= 1
    )


def test_protocols_of_the_reference_table_are_there():
    wanted = {
        "torch-fidelity", "clean", "pytorch-fid", "adm", "torchmetrics", "1d-tokenizer", "one-d-piece", "llamagen", "seed-voken",
        "lightningdit", "bsq-vit", "dc-ae", "karl", "vtbench-paper", "maskbit", "unitok", "vtbench",
    }  # fmt: skip
    assert wanted <= set(NAMES)
    for name in ("llamagen", "karl", "vtbench-paper"):
        assert "bug-compatible" in load_protocol(name).title


def test_equal_views_share_a_forward_and_an_override_renames():
    fid, kid = registry.metric("fid"), registry.metric("kid")
    fields = load_protocol("torch-fidelity").fields(256)
    assert fid.needs(fields) == kid.needs(fields)
    assert fid.needs(fields) == fid.needs(load_protocol("adm").fields(256)), "ADM's view is torch-fidelity's"
    clean = load_protocol("clean").fields(256)
    assert fid.needs(fields)["fake"].view == fid.needs(clean)["fake"].view
    assert fid.needs(fields)["fake"].args != fid.needs(clean)["fake"].args
    changed = load_protocol("clean+dtype=bfloat16")
    assert changed.name == "clean+dtype=bfloat16" and changed.digest() != load_protocol("clean").digest()


@pytest.mark.parametrize("name", [n for n in suite_names() if n.startswith("reconstruction-")])
def test_reconstruction_suites_measure_what_papers_report(name):
    suite = load_suite(name)
    metrics = {m.name: m.recommended for m in suite.metrics}
    assert {
        "psnr",
        "ssim",
        "lpips",
        "fid",
        "codebook_usage",
        "codebook_perplexity",
        "latency_ms",
        "peak_memory",
    } <= set(metrics)
    assert suite.task == "reconstruct" and suite.controls == ("resize", "jpeg:quality=30")
    for each in metrics:
        registry.metric(each)
    for protocol in suite.protocols.values():
        assert {e.name for e in suite.metrics if protocol.name in e.protocols} <= set(protocol.metrics)


def test_the_page_on_image_metrics_names_every_image_protocol():
    page = Path(__file__).parent.parent / "docs" / "image-metrics.md"
    text = page.read_text("utf-8")
    assert not [name for name in NAMES if f"`{name}`" not in text]
