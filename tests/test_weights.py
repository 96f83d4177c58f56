"""Weights: the search path, digests, opening files without running code, unwrapping, strict keys."""

import argparse
import os
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vtbench import weights
from vtbench.checkpoint import read
from vtbench.errors import BadWeights, MissingWeights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


@pytest.fixture(autouse=True)
def _own_path(tmp_path, monkeypatch):
    monkeypatch.setenv("VTBENCH_WEIGHTS", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_find_goes_through_the_folders_in_order(tmp_path):
    later = put(tmp_path / "two" / "net" / "w.bin")
    assert weights.find("net/w.bin") == later
    first = put(tmp_path / "one" / "net" / "w.bin")
    assert weights.find(["absent.bin", "net/w.bin"]) == first


def test_find_takes_a_hub_name_without_its_owner_and_from_the_hub_cache(tmp_path):
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc"
    cached = put(snapshot / "sub" / "model.safetensors")
    assert weights.find("owner/name/sub/model.safetensors") == cached
    local = put(tmp_path / "two" / "name" / "sub" / "model.safetensors")
    assert weights.find("owner/name/sub/model.safetensors") == local


def test_find_passes_over_another_digest(tmp_path):
    put(tmp_path / "one" / "w.bin", b"other")
    right = put(tmp_path / "two" / "w.bin", b"right")
    assert weights.find("w.bin", digest=weights.digest(right)) == right
    with pytest.raises(MissingWeights, match="another digest"):
        weights.find("w.bin", digest="0" * 64)


def test_find_says_what_is_missing_and_the_way_out():
    with pytest.raises(MissingWeights, match=r"the trunk \(a.pth or b.pth\).*VTBENCH_WEIGHTS"):
        weights.find(["a.pth", "b.pth"], what="the trunk")


def test_a_file_overwritten_in_place_has_another_digest(tmp_path):
    path = put(tmp_path / "w.bin", b"first!")
    before = weights.digest(path)
    path.write_bytes(b"second")  # the same size, within the same second
    assert weights.digest(path) != before
    assert before == "sha256:" + __import__("hashlib").sha256(b"first!").hexdigest()


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path):
    path = put(tmp_path / "w.bin", b"first")
    with weights.unchanged(path):
        path.read_bytes()

    def overwritten() -> None:
        with weights.unchanged(path):
            put(path, b"other")
            os.utime(path, (1, 1))

    with pytest.raises(BadWeights, match=r"w\.bin was written to while it was read\. Run again"):
        overwritten()


def test_a_settled_digest_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path = put(tmp_path / "w.bin", b"first!")
    os.utime(path, (1e9, 1e9))
    before = weights.digest(path)
    monkeypatch.setattr("hashlib.sha256", lambda *a: pytest.fail("read again"))
    assert weights.digest(path) == before
    monkeypatch.undo()
    path.write_bytes(b"second")
    assert weights.digest(path) != before


def test_state_digest_sees_names_values_and_dtypes_but_not_order():
    one = weights.state_digest(STATE)
    assert one == weights.state_digest(dict(reversed(STATE.items())))
    assert one != weights.state_digest({**STATE, "a.bias": STATE["a.bias"].float()})
    assert one != weights.state_digest({**STATE, "a.bias": STATE["a.bias"] * 2})
    assert one != weights.state_digest({"b.weight": STATE["a.weight"], "a.bias": STATE["a.bias"]})
    assert weights.state_digest({"x": torch.zeros(2, dtype=torch.bfloat16)}).startswith("sha256:")


def test_safetensors_and_torch_files_give_the_same_state(tmp_path):
    save_file(STATE, tmp_path / "s.safetensors")
    torch.save(STATE, tmp_path / "s.pth")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    digests = {weights.state_digest(weights.load_state(p)) for p in sorted(tmp_path.glob("*.*"))}
    assert digests == {weights.state_digest(STATE)}


@pytest.mark.parametrize("name", ["s.safetensors", "s.pth", "old.pth"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_named(tmp_path, name, keep):
    big = {"w": torch.randn(64, 64)}
    path = tmp_path / name
    if name == "s.safetensors":
        save_file(big, path)
    else:
        torch.save(big, path, _use_new_zipfile_serialization=name == "s.pth")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(BadWeights, match=name.replace(".", r"\.")) as caught:
        weights.load_state(path)
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (str(BOMB),))


BOMB = pathlib.Path("bomb")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": STATE, "evil": Bomb()}, "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadWeights, match=r"posix\.mkdir.*--allow-code"):
        weights.load_state("evil.pt")
    assert not BOMB.exists()
    assert weights.state_digest(weights.load_state("evil.pt", allow_code=True)) == weights.state_digest(STATE)
    assert BOMB.is_dir()  # with the flag the code does run: the refusal above was what stopped it


def test_a_bare_pickle_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("bare.pkl").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(BadWeights):
        read(pathlib.Path("bare.pkl"))
    assert not BOMB.exists()


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="torch has an allow-list from 2.5 on")
def test_training_arguments_open_through_the_allow_list(tmp_path):
    args = argparse.Namespace(lr=1e-4, out=pathlib.PurePosixPath("runs"), here=tmp_path)
    torch.save({"model": STATE, "args": args, "loss": np.float64(0.5), "epoch": 3}, tmp_path / "train.pt")
    content = read(tmp_path / "train.pt")
    assert content["args"].lr == 1e-4 and str(content["args"].here) == str(tmp_path) and content["loss"] == 0.5
    assert set(weights.load_state(tmp_path / "train.pt")) == set(STATE)


def test_omegaconf_configs_open_through_the_allow_list(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create(
        {"model": {"dim": 8, "name": "x", "mult": [1, 2], "p": 0.1, "ema": True, "none": None}}
    )
    torch.save({"state_dict": STATE, "hyper_parameters": config}, tmp_path / "lit.ckpt")
    content = read(tmp_path / "lit.ckpt")
    assert omegaconf.OmegaConf.to_container(content["hyper_parameters"]) == omegaconf.OmegaConf.to_container(config)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\0" * 99, "neither"),
    ],
)
def test_files_that_are_no_weights_are_told_apart(tmp_path, content, says):
    with pytest.raises(BadWeights, match=says):
        weights.load_state(put(tmp_path / "w.bin", content))


def test_auto_prefers_the_ema_and_says_so():
    ema = {k: v + 1 for k, v in STATE.items()}
    content = {"model": STATE, "ema": ema, "step": 4}
    auto = weights.unwrap(content)
    assert auto.key == "ema" and any("EMA" in note for note in auto.notes)
    assert torch.equal(auto.tensors["a.bias"], ema["a.bias"])
    assert torch.equal(weights.unwrap(content, "model").tensors["a.bias"], STATE["a.bias"])
    assert weights.unwrap({"ema_model": ema, "model": STATE}, "ema").tensors.keys() == ema.keys()
    assert weights.unwrap({"model": {"state_dict": STATE}}, "model.state_dict").tensors.keys() == STATE.keys()
    with pytest.raises(BadWeights, match=r"no entry 'best'.*model, ema, step"):
        weights.unwrap(content, "best")


def test_wrapper_prefixes_are_stripped_and_reported():
    wrapped = weights.unwrap({f"module._orig_mod.{k}": v for k, v in STATE.items()})
    assert wrapped.tensors.keys() == STATE.keys()
    assert wrapped.notes == ["stripped '_orig_mod.'", "stripped 'module.'"]
    inner = weights.unwrap({"enc._orig_mod.w": torch.zeros(1), "module.b": torch.zeros(1)})
    assert set(inner.tensors) == {"enc.w", "module.b"}  # `module.` is a name of the model's own here


def test_a_file_without_tensors_is_refused():
    with pytest.raises(BadWeights, match="no state dict"):
        weights.unwrap({"epoch": 1, "args": {"lr": 1}})
    with pytest.raises(BadWeights, match="holds a list"):
        weights.unwrap([1, 2])


def test_strict_loading_names_every_kind_of_fault():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    good = {"0.weight": torch.ones(2, 3), "0.bias": torch.zeros(2), "loss.w": torch.zeros(1)}
    report = weights.load_strict(net, good, drop=["loss.*"])
    assert report.loaded == 2 and report.dropped == ("loss.w",)
    assert torch.equal(net[0].weight, torch.ones(2, 3))
    with pytest.raises(
        BadWeights,
        match=r"1 missing: 0\.bias; 1 unexpected: loss\.w; 1 of another shape: 0\.weight \[2, 4\] \(wanted \[2, 3\]\)",
    ):
        weights.load_strict(net, {"0.weight": torch.ones(2, 4), "loss.w": torch.zeros(1)})
