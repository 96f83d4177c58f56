"""The installed packages with the real networks on photographs agree with ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vtbench.audit import audit

pytestmark = pytest.mark.real


def test_lpips_and_torch_fidelity_agree(assets: Path, tmp_path: Path) -> None:
    pytest.importorskip("lpips")
    pytest.importorskip("torch_fidelity")
    for name in ("fake", "truth"):
        (tmp_path / name).mkdir()
    for i, path in enumerate(sorted((assets / "imagenet-200").glob("*.JPEG"))[::50]):
        image = Image.open(path).convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)
        image.save(tmp_path / "truth" / f"{i}.png")
        image.save(tmp_path / "coarse.jpg", quality=20)
        Image.open(tmp_path / "coarse.jpg").save(tmp_path / "fake" / f"{i}.png")
    found = audit(
        str(tmp_path / "fake"), str(tmp_path / "truth"), which=["lpips", "torch-fidelity"], out=str(tmp_path / "out")
    )
    assert {(c.metric, c.ok) for c in found.checks} == {("lpips", True), ("fid", True), ("kid", True)}
    assert found.record.environment.more["audit"]["agrees"] is True
