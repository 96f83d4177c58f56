"""`audit`: values beside those of the installed packages, disagreement, absence, failure, and the certificate."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from vtbench import peers
from vtbench.audit import audit
from vtbench.errors import UnknownName, UsageError
from vtbench.peers import Theirs
from vtbench.record import read

_spec = importlib.util.spec_from_file_location("score_tests", Path(__file__).with_name("test_score.py"))
assert _spec is not None and _spec.loader is not None
score_tests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(score_tests)
folder = score_tests.folder
_small_network = score_tests._small_network


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    return str(folder(tmp_path / "fake", range(8), noise=12)), str(folder(tmp_path / "truth", range(8)))


def test_scikit_image_and_torchmetrics_agree_with_ours(tmp_path: Path, pair: tuple[str, str], monkeypatch: Any) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("torchmetrics")
    # PSNR and SSIM alone: the test's stand-in for the Inception is not torch-fidelity's network
    find = importlib.util.find_spec
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda n, *a: None if n == "torch_fidelity" else find(n, *a))
    found = audit(*pair, which=["scikit-image", "torchmetrics"], out=str(tmp_path / "out"))
    checked = {(c.peer, c.metric, c.protocol): c for c in found.checks}
    assert {k for k, c in checked.items() if c.ok} == {
        ("scikit-image", "psnr", "vtbench"),
        ("scikit-image", "ssim", "vtbench+ssim_border=valid"),
        ("scikit-image", "ssim", "seed-voken"),
        ("torchmetrics", "psnr", "vtbench"),
        ("torchmetrics", "ssim", "vtbench"),
    }
    assert found.agrees() and found.n == 8 and found.paired
    kept = read(tmp_path / "out" / "records" / f"{found.record.run_id}.json").environment.more["audit"]
    assert kept["agrees"] is True and len(kept["checks"]) == 5


def test_a_disagreement_a_failure_and_an_absence(tmp_path: Path, pair: tuple[str, str], monkeypatch: Any) -> None:
    from typer.testing import CliRunner

    from vtbench.cli import _mount, app

    def wrong(images: peers.Images, scratch: Path, kid: Any) -> Theirs:
        return Theirs({("psnr", "vtbench"): 1.0}, {})

    def broken(images: peers.Images, scratch: Path, kid: Any) -> Theirs:
        raise RuntimeError("no such network")

    monkeypatch.setitem(peers.PEERS, "scikit-image", ("numpy", wrong))
    monkeypatch.setitem(peers.PEERS, "lpips", ("no_such_module", wrong))
    monkeypatch.setitem(peers.PEERS, "clean-fid", ("numpy", broken))
    monkeypatch.setattr(peers, "version", lambda name: "1.0")
    if not app.registered_commands:
        _mount()
    chosen = [x for name in ("scikit-image", "lpips", "clean-fid") for x in ("--peer", name)]
    done = CliRunner().invoke(app, ["audit", *pair, *chosen, "--json", "--out", str(tmp_path / "out")])
    assert done.exit_code == 3, done.output
    checks = {c["peer"]: c for c in json.loads(done.stdout)["checks"]}
    assert checks["scikit-image"]["ok"] is False and checks["scikit-image"]["theirs"] == 1.0
    assert "not installed" in checks["lpips"]["why"] and "no such network" in checks["clean-fid"]["why"]


def test_scipy_without_its_argument_is_said(monkeypatch: Any) -> None:
    monkeypatch.setattr(peers, "version", lambda name: "1.18.0")
    with pytest.raises(peers.CannotRun, match=r"scipy<1\.18"):
        peers._need_sqrtm("clean-fid")


def test_wrong_arguments(tmp_path: Path, pair: tuple[str, str]) -> None:
    with pytest.raises(UnknownName, match="scikit-image"):
        audit(*pair, which=["scikit"], out=str(tmp_path))
    with pytest.raises(UsageError, match="ground truth"):
        audit(pair[0], out=str(tmp_path))
    one = folder(tmp_path / "one", range(1))
    with pytest.raises(UsageError, match="at least 2"):
        audit(str(one), str(one), out=str(tmp_path))
