"""`explain`: the candidates share forwards, the claim is found, single changes are attributed, orders are compared."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vtbench.errors import UnknownName, UsageError
from vtbench.explanation import candidates, explain, half_unit, orders, suite_of
from vtbench.report.explanation import claim_sentence, plot, spread_sentence
from vtbench.scorer import Scorer

_spec = importlib.util.spec_from_file_location("score_tests", Path(__file__).with_name("test_score.py"))
assert _spec is not None and _spec.loader is not None
score_tests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(score_tests)
Small, folder = score_tests.Small, score_tests.folder
_small_network = score_tests._small_network


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return folder(tmp_path / "fake", range(24), noise=20), folder(tmp_path / "truth", range(24))


def run(tmp_path: Path, fake: Path, truth: Path, suite: Any, claim: str = "") -> Any:
    result = Scorer(str(fake), str(truth), suite, out=str(tmp_path / "out"), device="cpu")()
    return explain(fake.name, "fid", list(result.rows()), suite.protocols, claim=claim)


def test_a_claim_is_found_and_protocols_share_forwards(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    suite = suite_of(["fid"])
    assert len(suite.metrics[0].protocols) > 12
    found = run(tmp_path, *pair, suite)
    values = {t.protocol: t.value for t in found.tried}
    distinct = {
        (p.view["features_resize"], p.view["features_scale"], p.view["dtype"]) for p in suite.protocols.values()
    }
    # images of one size: crops and quantisers are shared; the stand-in ignores `scale`, but it is an argument of the network
    assert Small.seen <= 24 * 2 * (len(distinct) + 1)
    clean = values["clean"]
    again = run(tmp_path, *pair, suite, claim=f"{clean:.3f}")
    assert "clean" in again.gives and "torch-fidelity" not in again.gives
    assert f"the claim {clean:.3f} is the rFID under" in claim_sentence(again)
    none = run(tmp_path, *pair, suite, claim="123.4")
    assert none.gives == () and "none of the" in claim_sentence(none)
    low, high = again.spread()
    assert f"is {low:.3f} to {high:.3f} depending on these choices" in spread_sentence(again)
    field_, _, value, change = again.attribution()[0]
    assert (field_, value) == ("features_resize", "clean") and change == pytest.approx(clean - values["torch-fidelity"])


def test_the_protocols_stand_in_a_figure(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    pytest.importorskip("matplotlib")
    figure = plot([run(tmp_path, *pair, suite_of(["fid"]), claim="0.016")], tmp_path / "figure.png")
    with Image.open(figure) as image:
        assert image.width > 500


def test_uncropped_ground_truth_is_another_number(tmp_path: Path) -> None:
    fake, wide = tmp_path / "fake", tmp_path / "truth"
    for where in (fake, wide):
        where.mkdir()
    for i in range(16):
        large = folder(tmp_path / f"large{i}", range(i, i + 1), side=96)
        image = Image.open(next(large.glob("*.png"))).resize((64, 32), Image.Resampling.BICUBIC)
        image.save(wide / f"{i:02d}.png")
        image.crop((16, 0, 48, 32)).save(fake / f"{i:02d}.png")
    suite = suite_of(["fid"])
    values = {t.protocol: t.value for t in run(tmp_path, fake, wide, suite).tried}
    assert values["torch-fidelity"] == pytest.approx(0, abs=1e-6)
    assert values["torch-fidelity+reference_fit=none"] > 0.01


def test_candidates() -> None:
    names = [p.name for p in candidates("fid")]
    assert names[0] == "torch-fidelity" and {
        "clean",
        "pytorch-fid",
        "adm",
        "torch-fidelity+features_resize=clean",
    } <= set(names)
    assert [p.name for p in candidates("fid", ["clean"])] == ["torch-fidelity", "clean"]
    assert any("quantise" in p.name for p in candidates("fid", given=False))
    assert not any("quantise" in p.name for p in candidates("fid"))
    assert {"vtbench+psnr_range=observed", "vtbench+psnr_over=set"} <= {p.name for p in candidates("psnr")}
    assert "vtbench+ssim_window=uniform7" in {p.name for p in candidates("ssim")}
    with pytest.raises(UnknownName):
        suite_of(["fod"])


def test_half_units() -> None:
    assert half_unit("1.5") == (1.5, pytest.approx(0.05)) and half_unit("1.50") == (1.5, pytest.approx(0.005))
    assert half_unit("2") == (2.0, 0.5)
    for wrong in ("x", "nan"):
        with pytest.raises(UsageError):
            half_unit(wrong)


def test_orders(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    fake, truth = pair
    suite = suite_of(["fid"], ["clean"])
    worse = folder(tmp_path / "worse", range(24), noise=60)
    subjects = [run(tmp_path, f, truth, suite) for f in (worse, fake)]
    (order,) = orders(subjects, higher_is_better=False)
    assert order.names == ("fake", "worse") and set(order.protocols) == {"torch-fidelity", "clean"}


def test_the_command_line(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    from typer.testing import CliRunner

    from vtbench.cli import _mount, app

    if not app.registered_commands:
        _mount()
    fake, truth = map(str, pair)
    out = ["--out", str(tmp_path / "out"), "--protocol", "clean,pytorch-fid", "--metric", "fid,psnr"]
    done = CliRunner().invoke(app, ["explain", fake, truth, "--claim", "0.1", "--json", *out])
    assert done.exit_code == 0, done.output
    fid, psnr = json.loads(done.stdout)
    assert {t["protocol"] for t in fid["tried"]} == {"torch-fidelity", "clean", "pytorch-fid"} and psnr[
        "metric"
    ] == "psnr"
    shown = CliRunner().invoke(app, ["explain", fake, truth, *out])
    assert "depending on these choices" in shown.stdout
