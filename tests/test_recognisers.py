"""Recognisers against the packages that they come from, on drawn words. EasyOCR's weights are real ones: tests/real."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from vtbench.api import Batch
from vtbench.errors import BadWeights, MissingPackage, MissingWeights
from vtbench.extractors import easyocr, parseq, rapidocr
from vtbench.extractors.words import WordReader

WORDS = ["Museum", "No.42", "extraordinarily", "I", "coffee & tea", "2,450.00"]


def drawn(text: str, size: int = 26, colour: tuple[int, int, int] = (200, 40, 30)) -> np.ndarray:
    """A word, dark red on beige: a swap of channels changes it."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("RGB", (int(right - left) + 8, int(bottom - top) + 8), (235, 225, 170))
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, font=font, fill=colour)
    return np.asarray(image)


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    wide = drawn("a very wide line of several words, eight times wider than high")
    tall = np.ascontiguousarray(np.rot90(drawn("down")))
    return [*(drawn(w) for w in WORDS), wide, tall, drawn("x")[:2, :9]]


# ---------------------------------------------------------------------------------------------- RapidOCR


@pytest.fixture(scope="module")
def rapid() -> rapidocr.RapidOCR:
    pytest.importorskip("rapidocr")
    reader = rapidocr.RapidOCR({})
    reader.open("cpu")
    return reader


def test_rapidocr_equals_the_package(rapid: rapidocr.RapidOCR, crops: list[np.ndarray]) -> None:
    from rapidocr import RapidOCR as Package
    from rapidocr.ch_ppocr_rec.typings import TextRecInput

    package = Package(params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": 1})
    recogniser = package._load_rec_model()
    read = rapid.read(crops)
    for pixels, (text, confidence) in zip(crops, read):
        direct = recogniser(TextRecInput(img=[np.ascontiguousarray(pixels[..., ::-1])], return_word_box=False))
        assert text == direct.txts[0]
        assert confidence == pytest.approx(direct.scores[0], abs=1e-4)
    assert [text for text, _ in read[: len(WORDS)]] == WORDS


def test_rapidocr_does_not_see_the_neighbours(rapid: rapidocr.RapidOCR, crops: list[np.ndarray]) -> None:
    together, alone = rapid.read(crops), [rapid.read([c])[0] for c in crops]
    assert [t for t, _ in together] == [t for t, _ in alone]
    np.testing.assert_allclose([c for _, c in together], [c for _, c in alone], rtol=1e-4)


def test_a_character_outside_the_alphabet_is_misread_and_counted(rapid: rapidocr.RapidOCR) -> None:
    image = drawn("tea")
    box = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    words = [SimpleNamespace(text=t, box=box, ratio=0.1) for t in ("tea", "ტea", "tea")]
    rows = rapid(Batch([SimpleNamespace(words=words)], [image]), ["text", "truth", "foreign"])
    assert rows["foreign"].values.tolist() == [False, True, False]
    assert rows["text"].values.tolist() == ["tea", "tea", "tea"]  # nothing else of its batch is lost


def test_another_network_is_refused() -> None:
    pytest.importorskip("rapidocr")
    with pytest.raises(BadWeights, match="not the recogniser that the protocol pins"):
        rapidocr.RapidOCR({"weights": "0123"}).identity()


# ---------------------------------------------------------------------------------------------- PARSeq


@pytest.fixture(scope="module")
def parseq_network() -> Any:
    """docTR's PARSeq with random weights, made decisive so that rounding cannot flip a character, and to end some words early."""
    pytest.importorskip("doctr")
    import torch
    from doctr.models import parseq as build

    torch.manual_seed(0)
    network = build(pretrained=False).eval()
    with torch.no_grad():
        network.head.weight.mul_(30)
        network.feat_extractor["0"].projection.weight.mul_(8)
        network.head.bias[-1] = 22
    return network


def test_parseq_vocabulary_is_doctr_s() -> None:
    datasets = pytest.importorskip("doctr.datasets")
    assert datasets.VOCABS["french"] == parseq.VOCABULARY
    assert len(set(parseq.VOCABULARY)) == len(parseq.VOCABULARY)


def test_parseq_equals_doctr(parseq_network: Any, crops: list[np.ndarray]) -> None:
    import torch
    from doctr.models.preprocessor import PreProcessor
    from doctr.models.recognition.predictor import RecognitionPredictor
    from doctr.transforms import Resize
    from doctr.utils import Sample
    from torchvision.transforms import Normalize

    reader = parseq.PARSeq({})
    reader.use(parseq_network, "cpu")
    inputs = [parseq.prepared(c) for c in crops]
    resize = Resize((32, 128), preserve_aspect_ratio=True)
    for pixels, mine in zip(crops, inputs):
        floats = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255)
        theirs = Normalize(parseq_network.cfg["mean"], parseq_network.cfg["std"])(resize(Sample(image=floats)).image)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    some = [1, 3, 5]
    read = reader.read([crops[i] for i in some])
    with torch.inference_mode():
        direct = parseq_network(torch.stack([inputs[i] for i in some]), return_preds=True)["preds"]
    assert [t for t, _ in read] == [t for t, _ in direct]
    assert sorted(len(t) for t, _ in read) == [1, 33, 33]
    assert len({t for t, _ in read}) == len(some)  # the network does look at its input
    mean, std = parseq_network.cfg["mean"], parseq_network.cfg["std"]
    settings = PreProcessor((32, 128), batch_size=64, mean=mean, std=std, preserve_aspect_ratio=True)
    for pixels, mine in zip(crops, inputs):  # docTR's predictor resizes bytes, TokBench floats: half a level apart
        (theirs,) = settings([pixels])
        torch.testing.assert_close(mine, theirs[0], rtol=0, atol=1.01 / 255 / min(std))
    predictor = RecognitionPredictor(settings, parseq_network, split_wide_crops=False)
    exact = np.full((32, 128, 3), 90, np.uint8)  # resized to itself, so both pipelines see the same numbers
    assert predictor([exact])[0][0] == reader.read([exact])[0][0]


def test_parseq_does_not_see_the_neighbours(parseq_network: Any, crops: list[np.ndarray]) -> None:
    reader = parseq.PARSeq({})
    reader.use(parseq_network, "cpu")
    together = reader.read([crops[i] for i in (1, 5, 2)])
    assert [t for t, _ in together] == [reader.read([crops[i]])[0][0] for i in (1, 5, 2)]


# ---------------------------------------------------------------------------------------------- weights that are not there


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("vtbench.weights.cache_folder", lambda: tmp_path / "cache")
    return tmp_path


@pytest.mark.parametrize(
    ("reader", "package", "file"),
    [(parseq.PARSeq, "doctr", "parseq-56125471.pt"), (easyocr.EasyOCR, "easyocr", "english_g2.pth")],
)
def test_missing_and_wrong_weights(reader: type[WordReader], package: str, file: str, nowhere: Path) -> None:
    pytest.importorskip(package)
    with pytest.raises(MissingWeights, match=file):
        reader({}).identity()  # type: ignore[call-arg]
    (nowhere / file).write_bytes(b"cut short")
    with pytest.raises(BadWeights, match=file):
        reader({}).identity()  # type: ignore[call-arg]


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install 'vtbench\[ocr\]'"):
        easyocr.EasyOCR({}).identity()
    with pytest.raises(MissingPackage, match=r"pip install 'vtbench\[demo\]'"):
        rapidocr.RapidOCR({}).identity()
