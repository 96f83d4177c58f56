"""Preprocessing against torchvision's transforms and against direct PIL recomputation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from vtbench.api import Placement
from vtbench.data import prepare, restore, through_container
from vtbench.data.preprocess import FITS, letterbox_size
from vtbench.errors import BadSample, UsageError

SIZES = [(37, 61), (61, 37), (64, 64), (33, 32), (200, 129), (129, 301), (31, 17), (1, 1), (131, 32), (32, 135)]
SIDE = 32


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth waves and noise, so that every filter and crop gives other pixels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + y / 9), np.cos(x / 7), np.sin(y / 4)], -1) * 90 + 128
    return Image.fromarray(np.clip(waves + random.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8))


def as_pixels(canvas: np.ndarray) -> np.ndarray:
    return np.rint(canvas.transpose(1, 2, 0) * 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("filter_", ["bicubic", "bilinear", "lanczos", "box"])
@pytest.mark.parametrize("library", ["pil", "torchvision"])
def test_short_side_crop_is_torchvisions(size: tuple[int, int], filter_: str, library: str) -> None:
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    image = picture(*size)
    modes = {"bicubic": "BICUBIC", "bilinear": "BILINEAR", "lanczos": "LANCZOS", "box": "BOX"}
    oracle = transforms.Compose(
        [
            transforms.Resize(SIDE, InterpolationMode[modes[filter_]]),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
        ]
    )(image).numpy()
    canvas, placement = prepare(
        image, {"fit": "short-side-crop", "filter": filter_, "library": library, "antialias": True}, SIDE
    )
    assert canvas.dtype == np.float32
    assert canvas.flags.c_contiguous
    np.testing.assert_array_equal(canvas, oracle)
    assert placement == Placement(size, (SIDE, SIDE), (0, 0, SIDE, SIDE), restorable=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("filter_", ["bicubic", "bilinear"])
def test_tensor_library_is_torchvisions_resize_of_tensors(size: tuple[int, int], antialias: bool, filter_: str) -> None:
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    image = picture(*size)
    oracle = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Resize(SIDE, InterpolationMode(filter_), antialias=antialias),
            transforms.CenterCrop(SIDE),
        ]
    )(image).numpy()
    fields = {"fit": "short-side-crop", "filter": filter_, "library": "tensor", "antialias": antialias}
    canvas, _ = prepare(image, fields, SIDE)
    np.testing.assert_array_equal(canvas, oracle.clip(0, 1))


@pytest.mark.parametrize("size", SIZES)
def test_centre_crop_is_torchvisions(size: tuple[int, int]) -> None:
    from torchvision import transforms

    image = picture(*size)
    canvas, placement = prepare(image, {"fit": "centre-crop"}, SIDE)
    np.testing.assert_array_equal(as_pixels(canvas), np.asarray(transforms.CenterCrop(SIDE)(image)))
    assert not placement.restorable


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [32, 48])
def test_letterbox_recomputed(size: tuple[int, int], side: int) -> None:
    """TokBench: r = min(S/W, S/H), ceil, LANCZOS, centred on black; then the padding off and LANCZOS back."""
    image = picture(*size)
    width, height = size
    ratio = min(side / width, side / height)
    inner = image.resize((math.ceil(width * ratio), math.ceil(height * ratio)), Image.Resampling.LANCZOS)
    oracle = np.zeros((side, side, 3), np.uint8)
    top, left = (side - inner.height) // 2, (side - inner.width) // 2
    oracle[top : top + inner.height, left : left + inner.width] = np.asarray(inner)
    canvas, placement = prepare(image, {"fit": "letterbox"}, side)
    np.testing.assert_array_equal(as_pixels(canvas), oracle)
    assert placement.source == size
    back = restore(oracle, placement)
    np.testing.assert_array_equal(back, np.asarray(inner.resize(size, Image.Resampling.LANCZOS)))


def test_letterbox_never_exceeds_the_canvas() -> None:
    rng = np.random.default_rng(0)
    for side in (224, 256, 336, 384, 513, 1000, 1024):
        for width, height in rng.integers(1, 9000, (500, 2)):
            inner = letterbox_size((int(width), int(height)), side)
            assert max(inner) == side
            assert min(inner) >= 1


@pytest.mark.parametrize("size", SIZES)
def test_adm_crop_recomputed(size: tuple[int, int]) -> None:
    """Halve by box while the short side is at least twice the target, then bicubic, then crop by floor."""
    image = picture(*size)
    scaled = image
    while min(scaled.size) >= 2 * SIDE:
        scaled = scaled.resize((scaled.size[0] // 2, scaled.size[1] // 2), Image.Resampling.BOX)
    scale = SIDE / min(scaled.size)
    scaled = scaled.resize((round(scaled.size[0] * scale), round(scaled.size[1] * scale)), Image.Resampling.BICUBIC)
    array = np.asarray(scaled)
    y, x = (array.shape[0] - SIDE) // 2, (array.shape[1] - SIDE) // 2
    canvas, _ = prepare(image, {"fit": "adm-crop"}, SIDE)
    np.testing.assert_array_equal(as_pixels(canvas), array[y : y + SIDE, x : x + SIDE])


@pytest.mark.parametrize("size", SIZES)
def test_cover_crop_recomputed(size: tuple[int, int]) -> None:
    image = picture(*size)
    scale = max(SIDE / size[0], SIDE / size[1])
    array = np.asarray(image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.LANCZOS))
    y, x = (array.shape[0] - SIDE) // 2, (array.shape[1] - SIDE) // 2
    canvas, _ = prepare(image, {"fit": "cover-crop"}, SIDE)
    np.testing.assert_array_equal(as_pixels(canvas), array[y : y + SIDE, x : x + SIDE])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_pad_repeats_the_edge_and_is_undone_exactly(size: tuple[int, int], multiple: int) -> None:
    image = picture(*size)
    canvas, placement = prepare(image, {"fit": "pad"}, None, multiple)
    height, width = canvas.shape[1:]
    assert (width % multiple, height % multiple) == (0, 0)
    assert 0 <= width - size[0] < multiple
    assert 0 <= height - size[1] < multiple
    pixels = as_pixels(canvas)
    np.testing.assert_array_equal(restore(pixels, placement), np.asarray(image))
    np.testing.assert_array_equal(pixels[size[1] :, : size[0]], np.repeat(np.asarray(image)[-1:], height - size[1], 0))
    np.testing.assert_array_equal(
        pixels[: size[1], size[0] :], np.repeat(np.asarray(image)[:, -1:], width - size[0], 1)
    )


def test_squash_goes_there_and_back() -> None:
    image = picture(50, 20)
    canvas, placement = prepare(image, {"fit": "squash", "filter": "bicubic"}, SIDE)
    oracle = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(as_pixels(canvas), np.asarray(oracle))
    back = restore(as_pixels(canvas), placement, filter="bicubic")
    np.testing.assert_array_equal(back, np.asarray(oracle.resize((50, 20), Image.Resampling.BICUBIC)))


def test_none_keeps_the_size_or_says_why_not() -> None:
    image = picture(48, 32)
    canvas, placement = prepare(image, {"fit": "none"}, None, 16)
    np.testing.assert_array_equal(restore(as_pixels(canvas), placement), np.asarray(image))
    with pytest.raises(BadSample, match="48 x 32 does not divide by the model's 32"):
        prepare(image, {"fit": "none"}, None, 32)


@pytest.mark.parametrize("fit", sorted(FITS))
def test_every_fit_gives_unit_floats(fit: str) -> None:
    canvas, placement = prepare(picture(40, 56), {"fit": fit}, SIDE, 8)
    assert canvas.shape == (3, placement.canvas[1], placement.canvas[0])
    assert canvas.dtype == np.float32
    assert 0 <= canvas.min() <= canvas.max() <= 1
    np.testing.assert_allclose(canvas * 255, np.rint(canvas * 255), atol=1e-4)  # 8-bit levels


@pytest.mark.parametrize(
    ("fields", "resolution", "multiple", "said"),
    [
        ({"fit": "strech"}, 32, 1, "fit = 'strech' is unknown"),
        ({"filter": "cubic"}, 32, 1, "filter = 'cubic' is unknown"),
        ({"library": "opencv"}, 32, 1, "library = 'opencv' is unknown"),
        ({"fit": "letterbox"}, None, 1, "needs a resolution"),
        ({"fit": "letterbox"}, 40, 16, "sides that divide by 16, and 40 does not. Use --resolution 32"),
        ({"fit": "letterbox", "library": "tensor"}, 32, 1, "defined on PIL images"),
        ({"library": "tensor", "filter": "lanczos"}, 32, 1, "cannot filter by lanczos"),
        ({"antialias": False}, 32, 1, "needs library = 'tensor'"),
    ],
)
def test_fields_that_do_not_go_together(fields: dict, resolution: int | None, multiple: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prepare(picture(20, 20), fields, resolution, multiple)


@pytest.mark.parametrize("fit", ["short-side-crop", "adm-crop", "cover-crop"])
def test_a_thread_of_a_picture_is_refused_before_it_fills_the_memory(fit: str) -> None:
    with pytest.raises(BadSample, match="too large once scaled"):
        prepare(Image.new("RGB", (1, 9000)), {"fit": fit}, 256)


def test_restore_refuses_a_crop_and_a_wrong_size() -> None:
    _, crop = prepare(picture(40, 30), {"fit": "short-side-crop"}, SIDE)
    with pytest.raises(UsageError, match="cropped canvas"):
        restore(np.zeros((SIDE, SIDE, 3), np.uint8), crop)
    _, box = prepare(picture(40, 30), {"fit": "letterbox"}, SIDE)
    with pytest.raises(BadSample, match=r"uint8 \(32, 32, 3\)"):
        restore(np.zeros((SIDE, SIDE // 2, 3), np.uint8), box)


def test_the_container_touches_jpeg_sources_only(tmp_path) -> None:
    pixels = np.asarray(picture(40, 24))
    picture(40, 24).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as saved:
        oracle = np.asarray(saved)
    assert (oracle != pixels).any()
    np.testing.assert_array_equal(through_container(pixels, "jpeg", "jpeg75"), oracle)
    np.testing.assert_array_equal(through_container(pixels, "png", "jpeg75"), pixels)
    np.testing.assert_array_equal(through_container(pixels, "jpeg", "lossless"), pixels)
    with pytest.raises(UsageError, match="'webp' is unknown"):
        through_container(pixels, "jpeg", "webp")
