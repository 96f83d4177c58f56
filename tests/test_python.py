"""The Python entrance: inside a training loop, and with one's own loop."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import vtbench
from vtbench.errors import UsageError

_spec = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("toys.py"))
assert _spec is not None and _spec.loader is not None
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)


class Trained(torch.nn.Module):
    """A model with everything that an evaluation could disturb: dropout, batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(3, 4, 8, 8)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(0.2)
        self.up = torch.nn.ConvTranspose2d(4, 3, 8, 8)

    def ids(self, x: torch.Tensor) -> torch.Tensor:
        z = self.drop(self.norm(self.down(x)))
        return (z.sigmoid().mean(1) * 15).round().long()

    def pixels(self, ids: torch.Tensor) -> torch.Tensor:
        z = (ids.float() / 15).unsqueeze(1).expand(-1, 4, -1, -1)
        return self.up(self.drop(z)).sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.drop(self.norm(self.down(x)))).sigmoid()


def _train(photos: Path, out: Path, evaluate: bool) -> tuple[list[torch.Tensor], list[float]]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = Trained().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    draws = []
    evaluator = None
    if evaluate:
        evaluator = vtbench.Evaluator(
            "reconstruction-256", data=str(photos), out=str(out), device="cpu", resolution=(32,), baselines=False
        )
    for step in range(20):
        if evaluator is not None and step == 10:
            tokenizer = vtbench.tokenizer(encode=model.ids, decode=model.pixels, codebook_size=16, name="mine")
            result = evaluator(tokenizer, step=step)
            assert np.isfinite(result["psnr"].value)
            assert model.training and model.drop.training
        x = torch.rand(4, 3, 32, 32) + 0.01 * random.random() + 0.01 * float(np.random.rand())
        loss = (model(x) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        draws.append(loss.item())
    return [p.detach().clone() for p in model.state_dict().values()], draws


def test_an_evaluation_leaves_training_untouched(photos: Path, tmp_path: Path) -> None:
    with_it, losses = _train(photos, tmp_path / "out", True)
    without, expected = _train(photos, tmp_path / "out2", False)
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(with_it, without))


class Painter(torch.nn.Module):
    """A generator of labels with dropout and batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.label, self.norm, self.drop = torch.nn.Embedding(4, 8), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2)
        self.paint = torch.nn.Linear(16, 3 * 8 * 8)

    def forward(self, labels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        z = self.drop(self.norm(torch.cat([self.label(labels), noise], 1)))
        return self.paint(z).sigmoid().view(-1, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)

    def sample(self, labels: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        torch.rand(3)  # a sampler that draws from the global state too
        noise = [torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return self(labels, torch.stack(noise))


PAINTED = """
name = "painted"
version = 1
task = "generate"
chunk = 8
resolutions = [32]
[data]
reader = "labels"
classes = 4
images = 16
needs_reference = false
[[metrics]]
name = "params_generator"
protocols = ["generation-costs"]
[[metrics]]
name = "seconds_per_image"
protocols = ["generation-costs"]
"""


def _train_painter(suite: Path, out: Path, evaluate: bool) -> tuple[list[torch.Tensor], list[float]]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    net = Painter().train()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    evaluator = vtbench.Evaluator(str(suite), out=str(out), device="cpu", keep_images="all") if evaluate else None
    losses = []
    for step in range(20):
        if evaluator is not None and step == 10:
            generator = vtbench.generator(net.sample, classes=4, name="mine", modules=net)
            result = evaluator(generator, step=step)
            assert result["params_generator"].value > 0 and result.record.model.revision.endswith(";step=10")
            assert len(list(out.glob("images/*/*/generated/*.png"))) == 16
            assert net.training and net.drop.training
        labels = torch.randint(4, (6,)) + 0 * int(np.random.rand())
        wanted = torch.rand(6, 3, 32, 32) * random.random()
        loss = (net(labels, torch.randn(6, 8)) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return [p.detach().clone() for p in net.state_dict().values()], losses


def test_an_evaluation_of_a_generator_leaves_training_untouched(tmp_path: Path) -> None:
    (tmp_path / "painted.toml").write_text(PAINTED)
    with_it, losses = _train_painter(tmp_path / "painted.toml", tmp_path / "out", True)
    without, expected = _train_painter(tmp_path / "painted.toml", tmp_path / "out2", False)
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(with_it, without))


@pytest.mark.parametrize("around", ["autocast", "float64", "meta"])
def test_what_surrounds_an_evaluation_moves_no_number(around: str, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Trained()
    tokenizer = vtbench.tokenizer(encode=model.ids, decode=model.pixels, codebook_size=16, name="mine")
    suite = _pixels_suite(tmp_path)

    def measured(out: str) -> dict[str, float]:
        how = {"data": str(photos), "device": "cpu", "baselines": False, "alarms": False}
        return vtbench.evaluate(tokenizer, suite, out=str(tmp_path / out), **how).flat()

    plain, truth = measured("plain"), torch.rand(4, 3, 64, 64)
    surroundings = {"autocast": lambda: torch.autocast("cpu", torch.bfloat16), "meta": lambda: torch.device("meta")}
    meters = [vtbench.Meter(["psnr", "ssim"]) for _ in range(2)]
    meters[0].update(truth, truth.flip(3))
    if around == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        with surroundings.get(around, contextlib.nullcontext)():
            assert measured("surrounded") == plain
            meters[1].update(truth, truth.flip(3))
    finally:
        torch.set_default_dtype(torch.float32)
    assert meters[0].compute().flat() == meters[1].compute().flat()
    assert not torch.is_autocast_enabled() and torch.empty(0).device.type == "cpu"


def _pixels_suite(folder: Path) -> str:
    path = folder / "pixels.toml"
    entries = "".join(f'[[metrics]]\nname = "{name}"\nprotocols = ["vtbench"]\n' for name in ("psnr", "ssim"))
    path.write_text(f'name = "pixels"\nversion = 1\ntask = "reconstruct"\nresolutions = [32]\n{entries}')
    return str(path)


def test_a_network_of_half_precision_is_given_images_of_its_own(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Trained().bfloat16()
    tokenizer = vtbench.tokenizer(reconstruct=model, name="half")
    found = vtbench.evaluate(
        tokenizer, _pixels_suite(tmp_path), data=str(photos), out=str(tmp_path), device="cpu", baselines=False
    )
    assert np.isfinite(found["psnr"].value)


def test_wrappers_change_no_revision_and_a_lost_network_is_told() -> None:
    model = Trained()
    wrapped, compiled = torch.nn.Module(), torch.nn.Module()
    wrapped.module = model  # as DistributedDataParallel holds it
    compiled._orig_mod = model  # as torch.compile does
    plain = vtbench.tokenizer(encode=model.ids, decode=model.pixels, codebook_size=16, modules=model)
    for other in (wrapped, compiled):
        made = vtbench.tokenizer(encode=model.ids, decode=model.pixels, codebook_size=16, modules=other)
        assert made.revision == plain.revision
    with pytest.warns(UserWarning, match="no network was found behind the functions of 'lost'"):
        vtbench.tokenizer(reconstruct=torch.sigmoid, name="lost")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vtbench.tokenizer(reconstruct=torch.sigmoid, name="known", modules=())


def test_a_result_shows_itself_and_names_two_suites_apart(photos: Path, tmp_path: Path) -> None:
    model = Trained()
    tokenizer = vtbench.tokenizer(encode=model.ids, decode=model.pixels, codebook_size=16, name="mine")
    suite = _pixels_suite(tmp_path)
    text = Path(suite).read_text("utf-8")
    (tmp_path / "twice.toml").write_text(text.replace('"pixels"', '"twice"').replace("ssim", "mse"))
    suites = [suite, str(tmp_path / "twice.toml")]
    how = {"data": str(photos), "out": str(tmp_path), "device": "cpu", "baselines": False}
    found = vtbench.evaluate(tokenizer, suites, **how)
    assert set(found.flat("val/")) == {"val/pixels/psnr", "val/twice/psnr", "val/ssim", "val/mse"}
    shown = repr(found)
    assert "pixels at 32 px" in shown and repr(found["psnr"]).removesuffix(" dB") in shown
    assert max(map(len, shown.splitlines())) <= 100 and "Record(" not in shown
    assert repr(vtbench.Result([])) == "Result(records=[])"
    with pytest.raises(UsageError, match="rank 0 has it"):
        vtbench.Result([])["psnr"]


def test_changed_weights_are_measured_anew(photos: Path, tmp_path: Path) -> None:
    model = Trained().eval()
    evaluator = vtbench.Evaluator(
        "reconstruction-256", data=str(photos), out=str(tmp_path), device="cpu", resolution=(32,), baselines=False
    )

    def measured() -> float:
        tokenizer = vtbench.tokenizer(encode=model.ids, decode=model.pixels, codebook_size=16, name="mine")
        return evaluator(tokenizer)["psnr"].value

    before = measured()
    with torch.no_grad():
        model.up.bias += 1.0
    assert measured() != before


def test_meter_equals_the_definition() -> None:
    gen = torch.Generator().manual_seed(0)
    truth = (torch.rand(6, 3, 32, 32, generator=gen) * 255).round() / 255
    noisy = (truth + 0.05 * torch.randn(truth.shape, generator=gen)).clamp(0, 1)
    meter = vtbench.Meter(["psnr"])
    meter.update(truth[:4], noisy[:4], ids=list("abcd"))
    meter.update(truth[4:], noisy[4:], ids=list("ef"))
    result = meter.compute()
    grid = (noisy * 255).round() / 255
    expected = -10 * torch.log10((grid - truth).double().square().mean((1, 2, 3)))
    assert result["psnr"].value == pytest.approx(float(expected.mean()), abs=1e-4)
    assert result["psnr"].row.n == 6
    one = vtbench.score(noisy.numpy(), truth.numpy(), ["psnr"])
    assert one["psnr"].value == pytest.approx(result["psnr"].value, abs=1e-9)


def test_meter_refuses_what_would_be_a_silent_error() -> None:
    truth = torch.rand(2, 3, 16, 16)
    meter = vtbench.Meter(["psnr"])
    for wrong, way_out in ((truth * 2 - 1, r"\(x \+ 1\) / 2"), (truth * 1.2 - 0.1, "clamp"), (truth * 255, "/ 255")):
        with pytest.raises(UsageError, match=rf"\[0, 1\]\. .*{way_out}"):
            meter.update(wrong, truth)
    with pytest.raises(UsageError, match="not finite"):
        meter.update(truth, truth * float("nan"))
    with pytest.raises(UsageError, match="twice"):
        meter.update(truth, truth, ids=["a", "a"])
    with pytest.raises(UsageError, match="not both"):
        meter.update(truth, truth[:, :, :8])
    with pytest.raises(UsageError, match="update first"):
        vtbench.Meter(["psnr"]).compute()


def test_meter_counts_tokens() -> None:
    truth = torch.rand(4, 3, 16, 16)
    ids = torch.tensor([[0, 1], [2, 3], [0, 1], [2, 3]])
    meter = vtbench.Meter(["psnr", "codebook_usage@tokens"])
    meter.update(truth, truth, tokens=ids, codebook_size=8)
    assert meter.compute()["codebook_usage"].value == pytest.approx(50.0)


def test_the_package_imports_nothing_heavy() -> None:
    code = "import sys, vtbench; print([m for m in ('torch', 'pandas', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
