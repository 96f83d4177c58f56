"""The tokenizer that the package carries: its ids, its prefixes, its sizes, and that it beats JPEG where JPEG stops."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vtbench.errors import BadWeights, UsageError
from vtbench.zoo.catalogue import card as card_of
from vtbench.zoo.tiny import WEIGHTS, Tiny, load_net
from vtbench.zoo.tiny_network import TinyNet, detail_flags, dispersed_order, spread

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "vtbench/demo"
TRUNK = next(
    (
        p
        for f in os.environ.get("VTBENCH_WEIGHTS", "").split(os.pathsep)
        if f
        for p in Path(f).glob("lpips/alexnet_features.safetensors")
    ),
    None,
)


def photo(name: str) -> torch.Tensor:
    """One demo image, float32 [1, 3, 256, 256] in [0, 1]."""
    pixels = np.array(Image.open(DEMO / f"images/photos/{name}.png").convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean()))


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    """training/quality.py, the script behind the card's numbers."""
    spec = importlib.util.spec_from_file_location("tiny_quality", ROOT / "training/quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_quality"] = module
    spec.loader.exec_module(module)
    return module


def test_weights_are_small_and_load_strictly() -> None:
    assert WEIGHTS.stat().st_size <= 3_000_000
    net = load_net()
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in net.parameters())
    counts = net.parameter_counts()
    assert max(counts["encoder"], counts["decoder"]) < counts["total"] <= counts["encoder"] + counts["decoder"]


def test_other_weights_are_refused(tmp_path: Path) -> None:
    for content in ({"a": torch.zeros(1)}, {}):
        save_file(content, tmp_path / "other.safetensors")
        with pytest.raises(BadWeights, match="does not hold a tiny"):
            Tiny(weights=tmp_path / "other.safetensors")


def test_codebook_is_the_grid_of_64_codes(tiny: Tiny) -> None:
    book = tiny.codebook()
    assert book.shape == (64, 4)
    assert len(np.unique(book, axis=0)) == 64
    assert np.abs(book).max() == 1


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (8, 8), (5, 3), (2, 9)])
def test_dispersed_order_is_a_permutation_that_covers_evenly(rows: int, columns: int) -> None:
    order = dispersed_order(rows, columns)
    assert sorted(order.tolist()) == list(range(rows * columns))
    if (rows, columns) == (8, 8):
        quarter = np.zeros((8, 8))
        quarter.flat[order[:4].numpy()] = 1
        assert quarter.reshape(2, 4, 2, 4).sum((1, 3)).max() == 1


def test_ids_are_in_range_and_every_level_is_used(tiny: Tiny) -> None:
    ids = torch.cat([tiny.encode(photo(p.stem)).data["tokens"] for p in sorted((DEMO / "images/photos").glob("*.png"))])
    assert ids.shape[1] == 1600
    assert ids.min() >= 0
    assert ids.max() < 64
    for level in ids.split([64, 256, 512, 256, 256, 256], 1):
        assert len(level.unique()) >= 24


def test_details_go_to_the_strongest_quarter_inside_the_strongest_half() -> None:
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 8:16, 40:48] = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    half, quarter = detail_flags(image)
    assert (half.sum(), quarter.sum()) == (8, 16)
    assert half[0, 0, 0, 2] == 1
    assert quarter[0, 0, 1, 5] == 1
    assert not (quarter.bool() & ~spread(half).bool()).any()


def test_decoder_finds_the_blocks_that_the_encoder_chose(tiny: Tiny) -> None:
    image = photo("cat")
    values, _, flags = tiny.net.encode_levels(image)
    order = tiny.net.order(flags, 256, 256)
    masks = tiny.net.presence(order, torch.tensor([1600]), 256, 256)
    assert torch.equal(masks[3].long(), flags[1])
    direct = tiny.net.decode_levels(values, masks).clamp(0, 1)
    torch.testing.assert_close(tiny.decode(tiny.encode(image)), direct, atol=1e-5, rtol=0)


def test_quality_grows_with_the_prefix(tiny: Tiny) -> None:
    image = photo("coffee")
    full = tiny.encode(image)
    scores = [psnr(tiny.decode(tiny.prefix(full, k)), image) for k in (16, 64, 256, 832, 1600)]
    assert all(after > before for before, after in itertools.pairwise(scores))
    assert scores[-1] > 20


def test_budget_at_encode_is_the_prefix_of_the_whole(tiny: Tiny) -> None:
    image = photo("cat")
    cut = tiny.prefix(tiny.encode(image), 100)
    direct = tiny.encode(image, budget=100)
    assert torch.equal(cut.data["tokens"], direct.data["tokens"])
    assert direct.bits().tolist() == [600.0]
    assert Tiny(budget=100).encode(image).data["tokens"].shape == (1, 100)
    with pytest.raises(UsageError, match="1 to 1600"):
        tiny.encode(image, budget=2000)


def test_tokens_scale_with_the_area(tiny: Tiny) -> None:
    image = torch.nn.functional.interpolate(photo("dogs"), scale_factor=2, mode="bilinear")
    assert tiny.encode(image).bits().tolist() == [4 * 9600.0]
    tokens = tiny.encode(image, budget=64)
    assert tokens.data["tokens"].shape == (1, 256)
    assert tiny.decode(tokens).shape == image.shape


@pytest.mark.parametrize("size", [(1, 1), (30, 47), (100, 260)])
def test_any_size_decodes_to_itself(tiny: Tiny, size: tuple[int, int]) -> None:
    image = photo("wine")[..., : size[0], : size[1]]
    output = tiny.decode(tiny.encode(image))
    assert output.shape == image.shape
    assert 0 <= output.min() <= output.max() <= 1


def test_an_image_does_not_depend_on_its_batch(tiny: Tiny) -> None:
    images = torch.cat([photo(name) for name in ("cat", "rocket", "mountains")])
    together = tiny.encode(images)
    alone = torch.cat([tiny.encode(image[None]).data["tokens"] for image in images])
    assert torch.equal(together.data["tokens"], alone)
    one = tiny.encode(images[1:2])
    torch.testing.assert_close(tiny.decode(together)[1:2], tiny.decode(one), atol=1e-5, rtol=0)


def test_any_ids_decode(tiny: Tiny) -> None:
    ids = torch.randint(0, 64, (2, 400), generator=torch.Generator().manual_seed(0))
    for k in (0, 1, 16, 50, 200, 400):
        assert torch.isfinite(tiny.net.decode_ids(ids[:, :k], 128, 128)).all()
    with pytest.raises(ValueError, match="401 tokens"):
        tiny.net.decode_ids(torch.zeros(1, 401, dtype=torch.long), 128, 128)
    with pytest.raises(ValueError, match="multiples of 32"):
        TinyNet().encode_ids(torch.zeros(1, 3, 40, 64))


def test_beats_the_floor_of_jpeg_in_lpips(quality: ModuleType) -> None:
    pytest.importorskip("lpips")
    if TRUNK is None:
        pytest.skip("no lpips/alexnet_features.safetensors under VTBENCH_WEIGHTS")
    sys.path.insert(0, str(ROOT / "training"))
    try:
        from lpips_alex import Lpips  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    paths = sorted((DEMO / "images/photos").glob("*.png"))
    distance = Lpips(TRUNK)
    ours = quality.photo_quality(paths, quality.tiny(WEIGHTS, 1344), distance)
    theirs = quality.photo_quality(paths, quality.jpeg(1), distance)
    assert ours["bits"] <= theirs["bits"]
    assert ours["lpips"] < theirs["lpips"] - 0.05
    assert ours["psnr"] > theirs["psnr"]


def test_reads_more_words_than_the_floor_of_jpeg_with_fewer_bits(quality: ModuleType) -> None:
    """All of the demo's words that are read on the original, by rapidocr; the mean over the three sizes."""
    pytest.importorskip("rapidocr")
    read = quality.rapid_reader()
    samples = quality.readable(quality.text_samples(DEMO, "demo"), read)
    ours = quality.text_quality(samples, quality.tiny(WEIGHTS, 1600), read)
    floor = quality.text_quality(samples, quality.jpeg(1), read)
    assert ours["words"] == floor["words"] >= 90
    assert ours["bits"] <= floor["bits"]
    assert ours["t_acc"] > floor["t_acc"] + 0.05
    card = card_of("tiny").measured["demo-words-rapidocr"]
    assert ours["t_acc"] == pytest.approx(card["t_acc"][-1], abs=0.04)
    assert floor["t_acc"] == pytest.approx(card["jpeg_floor"]["t_acc"], abs=0.04)
