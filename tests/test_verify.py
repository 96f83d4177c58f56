"""`models verify`: right weights pass, and each kind of wrong is told apart."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vtbench
from vtbench import zoo
from vtbench.cli.models import app
from vtbench.errors import BadWeights, MissingWeights
from vtbench.zoo import verify as checks
from vtbench.zoo.card import Card, File
from vtbench.zoo.catalogue import card

RUN = CliRunner()


def results(found):
    return {c.name: c.result for c in found}


def test_the_carried_model_passes_on_the_command_line():
    found = RUN.invoke(app, ["verify", "tiny", "--resolution", "128", "--json"])
    told = {c["name"]: c["result"] for c in json.loads(found.stdout)}
    assert found.exit_code == 0
    assert told == {
        "keys": "ok",
        "parameters": "ok",
        "reconstruction": "ok",
        "value range": "ok",
        "batch": "ok",
        "golden": "skipped",
    }


def test_untrained_weights_fail_on_the_photographs(tmp_path):
    torch.manual_seed(0)
    from vtbench.zoo.taesd import decoder, encoder

    for half, net in (("encoder", encoder(32, True)), ("decoder", decoder(32, True))):
        torch.save(net.state_dict(), tmp_path / f"taef2_{half}.pth")
    found = RUN.invoke(app, ["verify", "taef2", "--weights", str(tmp_path), "--resolution", "64"])
    assert found.exit_code == 3
    lines = {line.split()[1].rstrip(":"): line.split()[0] for line in found.stdout.splitlines()}
    assert (
        lines["digest"] == "failed"
        and lines["keys"] == "ok"
        and lines["parameters"] == "ok"
        and lines["reconstruction"] == "failed"
    )


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda x: x, "ok"),
        (lambda x: x / 2 + 0.5, "failed"),  # a [-1, 1] output taken for [0, 1]
        (lambda x: (x * 2 - 1).clamp(0, 1), "failed"),  # a [0, 1] output taken for [-1, 1]
        (lambda x: 1 - x, "failed"),
    ],
)
def test_a_wrong_value_range_shows(wrong, expected):
    found = checks.check_pictures(vtbench.tokenizer(reconstruct=wrong), 64)
    assert results(found)["value range"] == expected


def test_tokens_that_depend_on_the_batch_are_noticed():
    def encode(x):
        return torch.full((len(x), 4), len(x))

    model = vtbench.tokenizer(encode=encode, decode=lambda i: torch.zeros(len(i), 3, 64, 64), codebook_size=9)
    assert results(checks.check_pictures(model, 64))["batch"] == "failed"


def test_a_digest_is_compared_with_the_published_one(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"weights")
    from vtbench import weights

    right = Card("x", files=(File(names=("w.bin",), digest=weights.digest(tmp_path / "w.bin")),))
    other = Card("x", files=(File(names=("w.bin",), digest="sha256:" + "0" * 64),))
    unknown = Card("x", files=(File(names=("w.bin",)),))
    told = [checks.check_files(c, tmp_path / "w.bin")[0].result for c in (right, other, unknown)]
    assert told == ["ok", "failed", "skipped"]


def test_known_tokens_of_a_picture(tmp_path):
    grey = Image.fromarray(np.full((4, 4, 3), 128, np.uint8))
    grey.save(tmp_path / "grey.png")
    model = vtbench.tokenizer(encode=lambda x: (x.mean(1) * 255).round().long(), decode=lambda i: i, codebook_size=256)
    golden = {"image": "grey.png", "tokens": [128] * 16}
    assert checks.check_golden(Card("x", golden=golden), model, tmp_path / "grey.png").result == "ok"
    wrong = checks.check_golden(Card("x", golden=golden | {"tokens": [128] * 15 + [7]}), model, tmp_path / "grey.png")
    assert wrong.result == "failed" and wrong.told.startswith("15 of 16")
    assert (
        checks.check_golden(Card("x", golden=golden | {"tokens": [1]}), model, tmp_path / "grey.png").result == "failed"
    )
    assert checks.check_golden(Card("x", golden=golden | {"image": "no.png"}), model, None).result == "skipped"


def test_titoks_published_tokens_are_on_its_card():
    golden = card("titok-l32").golden
    assert len(golden["tokens"]) == 32 and golden["tokens"][:3] == [887, 3979, 349] and max(golden["tokens"]) < 4096


def test_a_variant_of_a_family_needs_only_its_file():
    assert card("titok").why_not() == "give --weights CHECKPOINT"
    with pytest.raises(MissingWeights, match="--weights"):
        zoo.load("titok")


def test_a_truncated_file_is_a_line_here_too(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(BadWeights, match="cut short"):
        checks.verify("titok", weights=tmp_path / "w.safetensors")
