"""Upstream systems: a toy package of somebody else's in a real worker process, and everything that can go wrong with one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vtbench.api import Batch
from vtbench.cli.models import app as models
from vtbench.errors import BadWeights, LostBatch, MissingWeights, UnknownName, UsageError, VtbenchError
from vtbench.extractors.costs import Costs
from vtbench.zoo import catalogue as cards
from vtbench.zoo.card import Card, File
from vtbench.zoo.spec import parse, user_params
from vtbench.zoo.upstream import adapter, place, process, setup, worker
from vtbench.zoo.upstream.adapter import Upstream

PACKAGE = """
    print("a banner that nobody asked for")

    def codes(images, levels):
        return (images * (levels - 1)).round()
"""

DRIVER = '''
    """A toy: pixels rounded to a few levels by a package of somebody else's."""

    from __future__ import annotations

    import os
    import time

    import numpy as np

    VERSION = 1


    def load(*, source, weights, device, dtype, levels: int = 4, noise: float = 0.0, fault: str = ""):
        import roundabout

        if fault == "absent":
            import no_such_package
        if fault == "unfit":
            raise ValueError("these weights are of another model")
        return Toy(roundabout, levels, noise, fault)


    def small(*, source, folder, seed):
        weights = os.path.join(folder, "toy.bin")
        open(weights, "w").close()
        return {"weights": {"weights": weights}, "params": {"levels": 3}}


    class Toy:
        def __init__(self, package, levels, noise, fault):
            self.package, self.levels, self.noise, self.fault = package, levels, noise, fault

        def describe(self):
            stream = {"name": "tokens", "kind": "index", "layout": "grid2d", "sizes": [self.levels], "ordered": True}
            return {"streams": [stream], "resolution": 8, "prefix": True, "max_tokens": 64, "stochastic": True, "parameters": {"decoder": 7}}

        def encode(self, images, *, seeds, **options):
            flag = os.environ.get("TOY_FLAG", "")
            once = self.fault.endswith("-once")
            fault = self.fault.removesuffix("-once")
            if once and os.path.exists(flag):
                fault = ""
            if once:
                open(flag, "w").close()
            if fault == "dies":
                print("Segmentation fault, as it were")
                os._exit(7)
            if fault == "hangs":
                time.sleep(60)
            if fault == "garbage":
                os.write(int(__import__("sys").argv[2]), b"Loading checkpoint shards: 100%")
            if fault == "huge":
                os.write(int(__import__("sys").argv[2]), b"VTBWORK1" + (1 << 31).to_bytes(4, "little"))
            if fault == "raises":
                raise RuntimeError("mat1 and mat2 cannot be multiplied")
            codes = self.package.codes(images, self.levels).mean(1).astype("int64")
            if fault == "range":
                codes = codes + self.levels
            return {"tokens": codes[:1] if fault == "shape" else codes}

        def decode(self, arrays, *, seeds, budget=None, **options):
            codes = arrays["tokens"].reshape(len(arrays["tokens"]), -1)
            flat = np.zeros((len(codes), 64), "float32")
            flat[:, : codes.shape[1]] = codes / (self.levels - 1)
            images = np.repeat(flat.reshape(-1, 1, 8, 8), 3, axis=1)
            drawn = [np.random.default_rng(s).normal(size=(3, 8, 8)) for s in seeds]
            return (images + self.noise * np.stack(drawn)).astype("float32").clip(0, 1)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function that makes the toy's adapter with parameters."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "roundabout.py").write_text(textwrap.dedent(PACKAGE))
    driver = tmp_path / "toy_driver.py"
    driver.write_text(textwrap.dedent(DRIVER))
    weights = tmp_path / "toy.bin"
    weights.write_bytes(b"weights")
    monkeypatch.setenv(place.FOLDER, str(tmp_path / "environments"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where logs go
    monkeypatch.setenv("TOY_FLAG", str(tmp_path / "flag"))
    card = Card(
        "toy",
        title="Toy",
        route="upstream",
        adapter="vtbench.zoo.upstream.adapter:Upstream",
        files=(File(names=("toy.bin",)),),
        upstream={"repository": "https://example.org/toy", "commit": "0", "driver": str(driver), "packages": ["numpy"]},
    )
    made = []

    def make(text: str = "toy", **frame) -> Upstream:
        offered = {"card": card, "weights": weights, "upstream": source, **frame}
        passed, params = user_params(Upstream.bound_to(card), parse(text), offered, {})
        made.append(Upstream.bound_to(card)(**passed, **params))
        return made[-1]

    make.card = card
    yield make
    for model in made:
        model.close()


@pytest.fixture
def listed(toy, tmp_path, monkeypatch):
    """The toy's card among the catalogue's, as a file."""
    folder = tmp_path / "cards"
    folder.mkdir()
    upstream = "\n".join(f"{k} = {json.dumps(v)}" for k, v in toy.card.upstream.items())
    (folder / "toy.toml").write_text(
        f'name = "toy"\ntitle = "Toy"\nroute = "upstream"\nadapter = "{toy.card.adapter}"\n'
        f'code_licence = "MIT"\n[upstream]\n{upstream}\n[[files]]\nnames = ["toy.bin"]\n'
    )
    monkeypatch.setattr(cards, "FOLDER", folder)
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    return toy


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_worker_encodes_and_decodes(toy, images):
    model = toy("toy:levels=5")
    tokens = model.encode(images, seeds=[1, 2, 3])
    wanted = (images * 4).round().mean(1).long()
    assert torch.equal(tokens.data["tokens"], wanted.flatten(1))
    assert tokens.streams[0].shape == (8, 8)
    assert np.allclose(tokens.bits(), 64 * np.log2(5))
    out = model.decode(tokens, seeds=[1, 2, 3])
    assert torch.allclose(out[:, 0], wanted / 4)
    assert model.capabilities.resolution == 8 and model.capabilities.prefix


def test_prefixes_and_per_image_noise(toy, images):
    model = toy("toy:noise=0.1")
    tokens = model.encode(images, seeds=[1, 2, 3])
    cut = model.prefix(tokens, 10)
    assert cut.data["tokens"].shape == (3, 10)
    whole = model.decode(cut, seeds=[1, 2, 3])
    alone = model.decode(model.prefix(model.encode(images[1:2], seeds=[2]), 10), seeds=[2])
    assert torch.equal(whole[1:2], alone)


def test_costs_are_those_of_the_worker_or_none(toy, images):
    extractor = Costs({"repeats": 1, "warmup": 0})
    extractor.model = toy()
    heads = ["params_decoder", "peak_memory", "encode_latency"]
    found = {h: r.values[0] for h, r in extractor(Batch([], images=images), heads).items()}
    assert found["params_decoder"] == 7 and np.isnan(found["peak_memory"]) and found["encode_latency"] > 0


def test_a_banner_on_stdout_harms_nothing_and_is_kept_in_the_log(toy, images):
    model = toy()
    model.encode(images, seeds=[0, 0, 0])
    assert "a banner that nobody asked for" in model._process.log.read_text()
    logs = [model._process.log]
    model.close()
    model.encode(images, seeds=[0, 0, 0])
    logs.append(model._process.log)
    model._process = None  # as at the end of a program
    assert not any(log.exists() for log in logs)


def test_the_revision_follows_weights_commit_and_driver(toy, tmp_path):
    first = toy().revision
    (tmp_path / "source" / "roundabout.py").write_text("def codes(images, levels): return images")
    second = toy().revision
    (tmp_path / "toy.bin").write_bytes(b"others")
    assert len({first, second, toy().revision}) == 3


def test_wrong_parameters_are_told_before_a_worker_starts(toy):
    with pytest.raises(UnknownName, match="level"):
        toy("toy:level=3")
    with pytest.raises(UsageError, match="levels is int"):
        toy("toy:levels=many")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("hangs", r"gave no answer within 2 s"),
        ("garbage", "begin no message"),
        ("huge", "over the limit"),
        ("dies", "ended with exit code 7.*Segmentation fault, as it were"),
    ],
)
def test_a_lost_worker_costs_its_batch_and_the_next_gets_another(toy, images, monkeypatch, fault, told):
    model = toy(f"toy:fault={fault}")
    model.description()
    monkeypatch.setenv(process.LIMIT, "2" if fault == "hangs" else "30")
    with pytest.raises(LostBatch, match=told):
        model.encode(images, seeds=[0, 0, 0])
    monkeypatch.delenv(process.LIMIT)
    model.params["fault"] = ""
    assert len(model.encode(images, seeds=[0, 0, 0])) == 3


def test_a_worker_that_dies_once_is_asked_again(toy, images):
    assert len(toy("toy:fault=dies-once").encode(images, seeds=[0, 0, 0])) == 3


def test_three_losses_in_a_row_stop_the_run(toy, images):
    model = toy("toy:fault=garbage")
    for _ in range(2):
        with pytest.raises(LostBatch):
            model.encode(images, seeds=[0, 0, 0])
    with pytest.raises(VtbenchError, match="3 times in a row"):
        model.encode(images, seeds=[0, 0, 0])


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("absent", VtbenchError, "lacks the package 'no_such_package'. `vtbench models setup toy`"),
        ("unfit", BadWeights, "of another model"),
        ("raises", VtbenchError, "failed to encode in its own code .RuntimeError: mat1"),
        ("shape", VtbenchError, r"encodes 3 images to tokens of shape \(1, 8, 8\)"),
        ("range", VtbenchError, "between 4 and .* for a codebook of 4"),
    ],
)
def test_an_error_in_the_worker_is_one_line(toy, images, fault, kind, told):
    with pytest.raises(kind, match=told) as caught:
        toy(f"toy:fault={fault}").encode(images, seeds=[0, 0, 0])
    assert not isinstance(caught.value, LostBatch)
    assert "\n" not in str(caught.value)


def test_missing_environment_checkout_weights_and_interpreter(toy, tmp_path):
    with pytest.raises(VtbenchError, match=r"no environment for it\. `vtbench models setup toy`.*--upstream DIR"):
        toy(upstream=None)
    with pytest.raises(UsageError, match="no folder"):
        toy(upstream=tmp_path / "nowhere")
    with pytest.raises(MissingWeights, match="--weights"):
        toy(weights=tmp_path / "nowhere.bin")
    model = toy()
    model.place = place.Place("/nowhere/python", model.place.source, "0")
    with pytest.raises(VtbenchError, match="/nowhere/python cannot be started"):
        model.description()


def test_messages_round_trip_and_are_bounded():
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.zeros((0, 4), np.float32), "c": np.float64(2)}
    stream = b"".join(bytes(p) for p in worker.pack({"op": "x", "id": 1}, arrays))
    buffer = memoryview(stream)

    def reader(data):
        at = 0

        def read(n):
            nonlocal at
            if at + n > len(data):
                raise EOFError
            at += n
            return bytes(data[at - n : at])

        return read

    header, back = worker.unpack(reader(buffer))
    assert header == {"op": "x", "id": 1}
    assert all(np.array_equal(back[k], arrays[k]) and back[k].dtype == np.asarray(arrays[k]).dtype for k in arrays)

    def framed(text: bytes) -> bytes:
        return worker.MAGIC + len(text).to_bytes(4, "little") + text

    big = json.dumps({"arrays": [{"name": "a", "dtype": "<f4", "shape": [1 << 20, 1 << 20]}]}).encode()
    evil = json.dumps({"arrays": [{"name": "a", "dtype": "|O", "shape": [1]}]}).encode()
    negative = json.dumps({"arrays": [{"name": "a", "dtype": "<f4", "shape": [-1]}]}).encode()
    for bad in (framed(big), framed(evil), framed(negative), framed(b"not json"), framed(b"[]"), b"x" * 40):
        with pytest.raises(worker.BadMessage):
            worker.unpack(reader(bad))
    with pytest.raises(worker.BadMessage):
        worker.pack({}, {"a": np.array(["text"])})


def test_the_worker_sees_no_tokens_and_no_foreign_path(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    env = process.environment(2)
    assert "HF_TOKEN" not in env and "PYTHONPATH" not in env
    assert env["OMP_NUM_THREADS"] == "2" and env["HF_HUB_OFFLINE"] == "1"


# ------------------------------------------------------------------------------------------- setup


def test_setup_says_what_it_does_and_asks(listed, tmp_path):
    done = CliRunner().invoke(models, ["setup", "toy", "--no-exact"], input="n\n")
    assert done.exit_code == 1
    told = done.stdout
    assert "licence: code: MIT; weights: not stated" in told
    assert f"clone: https://example.org/toy at 0 -> {tmp_path / 'environments' / 'toy_driver' / 'source'}" in told
    assert "packages from PyPI: numpy" in told
    assert not (tmp_path / "environments").exists()


def test_setup_takes_a_checkout_and_an_interpreter_and_tries_them(listed, tmp_path):
    at = ["setup", "toy", "--upstream", str(tmp_path / "source"), "--python", sys.executable]
    assert CliRunner().invoke(models, [*at, "--dry-run"]).exit_code == 0
    assert place.standing(listed.card) is None
    done = CliRunner().invoke(models, [*at, "--yes"])
    assert done.exit_code == 0, done.output
    assert "one image encoded and decoded" in done.stderr
    made = place.standing(listed.card)
    assert made.source == str(tmp_path / "source") and made.commit.startswith("code:") and made.packages
    shown = CliRunner().invoke(models, ["show", "toy"]).stdout
    assert "runs here: yes" in shown and f"environment: {sys.executable}" in shown and "loads: yes" in shown


def test_an_environment_that_lacks_a_package_is_not_noted(listed, tmp_path):
    (tmp_path / "source" / "roundabout.py").write_text("import no_such_package")
    planned = setup.plan(listed.card, tmp_path / "source", sys.executable)
    with pytest.raises(VtbenchError, match="lacks the package 'no_such_package'"):
        setup.make(planned)
    assert place.standing(listed.card) is None
    assert "no: no environment: vtbench models setup toy" in CliRunner().invoke(models, ["list"]).stdout


def test_a_clone_is_the_pinned_commit(listed, tmp_path):
    def git(*words):
        return subprocess.run(
            ["git", "-C", str(tmp_path / "source"), *words], check=True, capture_output=True, text=True
        )

    git("init", "--quiet")
    git("add", "-A")
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "toy")
    head = git("rev-parse", "HEAD").stdout.strip()
    toy = Card("toy", upstream={**listed.card.upstream, "repository": str(tmp_path / "source"), "commit": head})
    planned = setup.plan(toy, None, sys.executable)
    assert setup.make(planned).commit == head
    (planned.source / "roundabout.py").write_text("def codes(images, levels): return images")
    assert place.commit_of(planned.source).startswith(f"{head}+")


def test_setup_refuses_what_is_not_there_and_what_needs_none(toy, tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        setup.plan(toy.card, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no interpreter"):
        setup.plan(toy.card, None, "/nowhere/python")
    with pytest.raises(UsageError, match="needs no setup"):
        setup.plan(Card("jpeg"))
    with pytest.raises(VtbenchError, match="cannot fetch"):
        setup._run(["git", "fetch", "--quiet", "/nowhere"], "fetch it")


def test_a_recipe_is_checked():
    with pytest.raises(UsageError, match="lacks 'commit'"):
        Card("toy", upstream={"repository": "r", "packages": ["numpy"]}).recipe()
    with pytest.raises(UnknownName, match="comit"):
        Card("toy", upstream={"repository": "r", "comit": "0", "packages": ["numpy"]}).recipe()


def test_every_upstream_card_has_a_recipe_and_a_light_driver():
    """The parent imports drivers for their signatures: nothing heavy may come with them."""
    for card in cards.cards():
        if card.upstream and card.adapter:
            code = f"import sys\nfrom vtbench.zoo.upstream import place\nplace.driver(place.Path({str(card.recipe().driver_file())!r}))\nassert 'torch' not in sys.modules"
            subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------- in a run


def test_a_lost_batch_costs_its_samples_and_the_next_run_measures_them(listed, photos, tmp_path, monkeypatch):
    import vtbench

    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "plain.toml").write_text(
        'name = "plain"\ntitle = "plain"\nmetrics = ["psnr"]\n[input]\nexif = "ignore"\nfit = "squash"\nlibrary = "pil"\nfilter = "bicubic"\n'
        'antialias = true\nencode = "mode"\n[view]\nquantise = "round"\nreference = "round"\n[reduce]\n'
    )
    (tmp_path / "small.toml").write_text(
        'name = "small"\nversion = 1\ntask = "reconstruct"\nchunk = 6\nresolutions = [8]\n'
        '[[metrics]]\nname = "psnr"\nprotocols = ["plain"]\n'
    )

    def run():
        options = {"data": str(photos), "out": str(tmp_path / "out"), "upstream": str(tmp_path / "source")}
        return vtbench.evaluate("toy:fault=garbage-once", str(tmp_path / "small.toml"), batch_size=3, **options).record

    lost = run()
    assert (lost.rows[0].n, lost.rows[0].status) == (7, "partial")
    assert [f.id for f in lost.failures] == ["image_00", "image_01", "image_02"]
    assert all("begin no message" in f.reason for f in lost.failures)
    again = run()
    assert (again.rows[0].n, again.rows[0].status, again.failures) == (10, "ok", [])
    assert again.environment.more["chunks_measured"] == 1
    assert again.environment.more["worker"]["commit"].startswith("code:")
    assert "numpy" in again.environment.more["worker"]["packages"]
    monkeypatch.setattr(adapter, "Process", None)  # a complete run starts no worker
    assert run().rows == again.rows
