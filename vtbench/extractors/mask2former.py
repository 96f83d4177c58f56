"""Mask2Former with a Swin-S backbone (Cheng et al. 2022, arXiv:2112.01527) as GenEval runs it, without mmdetection.

The network is transformers'; with the renamed weights of mmdetection's checkpoint its logits agree with mmdetection's own classes to float32's last digits.
What stands before and after it is here, for both checkpoints: an image is resized to fit 1333 x 800 (bilinear on bytes, no antialias, as OpenCV does it),
padded with grey 128 to multiples of 32, normalised; masks go back to the image's size as logits; the 100 likeliest pairs of query and class are scored
by the class's probability times the mean probability of the mask's pixels. transformers' own processor would resize to 384 x 384 and merge masks.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtbench import weights
from vtbench.errors import BadWeights
from vtbench.extractors.detections import Detected
from vtbench.extractors.installed import require
from vtbench.extractors.mask2former_names import published, renamed
from vtbench.extractors.pinned import pinned
from vtbench.extractors.precision import exact
from vtbench.extractors.words import by_shape
from vtbench.geneval.prompts import CLASSES
from vtbench.geneval.rules import KEPT

LONG, SHORT, MULTIPLE = 1333, 800, 32
GREY = 128
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MOST = 100
TOGETHER = 4
MMDETECTION = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
FILE = f"{MMDETECTION}_20220504_001756-743b7d99.pth"
HUB = "facebook/mask2former-swin-small-coco-instance"
UNUSED = ("criterion.empty_weight", "swin.layernorm.weight", "swin.layernorm.bias")
"""Tensors of transformers' class that no forward reads: of the loss, and the last norm of a Swin that is not a classifier."""
CONSTANT = "relative_position_index"
"""A buffer of older versions, which every network computes for itself."""


# ------------------------------------------------------------------------------------------------ before the network


def fitting(height: int, width: int) -> tuple[int, int]:
    """(height, width) of an image that is made to fit 1333 x 800 at its own aspect ratio."""
    scale = min(LONG / max(height, width), SHORT / min(height, width))
    return int(height * float(scale) + 0.5), int(width * float(scale) + 0.5)


def linear_bytes(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 ``[H, W, 3]`` resized as OpenCV's `INTER_LINEAR` does it: half-pixel centres, no antialias, weights of 11 bits, integers throughout.

    Exactly half the size is the mean of four pixels, as there."""
    if image.shape[:2] == (height, width):
        return image
    if image.shape[:2] == (2 * height, 2 * width):
        four = image.astype(np.int32).reshape(height, 2, width, 2, -1).sum(axis=(1, 3))
        return ((four + 2) >> 2).astype(np.uint8)
    left, near, far = _taps(image.shape[1], width)
    edge = (left < 0) | (left >= image.shape[1] - 1)
    near, far = np.where(edge, 2048, near), np.where(edge, 0, far)
    left = left.clip(0, image.shape[1] - 1)
    wide = image[:, left].astype(np.int32) * near[:, None]
    wide += image[:, np.minimum(left + 1, image.shape[1] - 1)].astype(np.int32) * far[:, None]
    wide >>= 4
    top, up, down = _taps(image.shape[0], height)  # at an edge both rows are the same one, with the weights of two
    upper, lower = (wide[(top + i).clip(0, image.shape[0] - 1)] for i in (0, 1))
    rows = ((upper * up[:, None, None]) >> 16) + ((lower * down[:, None, None]) >> 16)
    return ((rows + 2) >> 2).clip(0, 255).astype(np.uint8)


def _taps(size: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first source pixel of every output pixel (-1: before the first), and the weights (of 2048) of it and of the next."""
    at = ((np.arange(out) + 0.5) * (1.0 / (out / size)) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    part = at - first.astype(np.float32)
    return first, *(np.rint(w * np.float32(2048)).astype(np.int32) for w in (1 - part, part))


def prepared(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """An image (uint8 RGB ``[H, W, 3]``) as the network wants it, float32 ``[3, h, w]``, and its size before padding."""
    height, width = fitting(*image.shape[:2])
    canvas = np.full((height + -height % MULTIPLE, width + -width % MULTIPLE, 3), GREY, np.uint8)
    canvas[:height, :width] = linear_bytes(image, height, width)
    normalised = (canvas.astype(np.float32) - np.array(MEAN, np.float32)) * (1 / np.array(STD)).astype(np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)), (height, width)


# ------------------------------------------------------------------------------------------------ after it


def instances(
    classes: Any, masks: Any, padded: tuple[int, int], inside: tuple[int, int], size: tuple[int, int]
) -> Detected:
    """Detections above the score of `KEPT` from one image's logits: classes ``[Q, 81]``, masks ``[Q, h, w]``.

    padded: the network's input. inside: of it, the image. size: the image's own. A mask's score is below one, so pairs whose class is at or below
    `KEPT` alone need no mask at full size."""
    import torch
    from torch.nn import functional as F

    likely = classes.softmax(-1)[:, :-1]
    scores, pairs = likely.flatten().topk(min(MOST, likely.numel()))
    numbers = pairs % likely.shape[1]
    wanted = scores > KEPT
    scores, numbers, queries = scores[wanted], numbers[wanted], (pairs // likely.shape[1])[wanted]
    if not len(scores):
        return Detected(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
    chosen, place = queries.unique(return_inverse=True)
    logits = F.interpolate(masks[chosen][None], padded, mode="bilinear", align_corners=False)
    logits = logits[..., : inside[0], : inside[1]]
    logits = F.interpolate(logits[0][:, None], size, mode="bilinear", align_corners=False)[:, 0]
    on = logits > 0
    sure = (logits.sigmoid() * on).flatten(1).sum(1) / (on.flatten(1).sum(1).float() + 1e-6)
    scores = scores * sure[place]
    keep = scores > KEPT
    place = place[keep]
    boxes = torch.stack([_box(mask) for mask in on])[place] if keep.any() else torch.zeros((0, 4))
    return Detected(
        numbers[keep].cpu().numpy(),
        scores[keep].float().cpu().numpy(),
        boxes.cpu().numpy().astype(np.float32),
        on.cpu().numpy()[place.cpu().numpy()],
    )


def _box(mask: Any) -> Any:
    """x0, y0, x1, y1 of a mask's pixels, the far sides one further; zeros when it has none."""
    import torch

    columns, rows = (mask.any(axis).nonzero().flatten() for axis in (0, 1))
    if not len(columns):
        return torch.zeros(4)
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float().cpu()


# ------------------------------------------------------------------------------------------------ the network


class Mask2Former:
    """The network with what stands before and after it; subclasses say where the weights come from."""

    def __init__(self) -> None:
        self._network: Any = None
        self._device = "cpu"

    def use(self, network: Any, device: str = "cpu") -> None:
        """Detect with this `Mask2FormerForUniversalSegmentation`."""
        self._network, self._device = network.eval().requires_grad_(False).to(device), device

    def detect(self, images: Sequence[np.ndarray]) -> list[Detected]:
        """What is in each image; images that the network sees at one size share a forward."""
        import torch

        ready = [prepared(image) for image in images]
        out: list[Detected | None] = [None] * len(images)
        for part in by_shape(ready, lambda r: r[0].shape, TOGETHER):
            with exact(self._device):
                inputs = torch.from_numpy(np.stack([ready[i][0] for i in part])).to(self._device)
                found = self._network(pixel_values=inputs)
                for row, i in enumerate(part):
                    classes, masks = found.class_queries_logits[row], found.masks_queries_logits[row]
                    padded = (inputs.shape[2], inputs.shape[3])
                    out[i] = instances(classes, masks, padded, ready[i][1], images[i].shape[:2])  # type: ignore[arg-type]
        return [o for o in out if o is not None]


def configuration(classes: int = len(CLASSES)) -> Any:
    """transformers' configuration of Mask2Former with Swin-S."""
    transformers: Any = importlib.import_module("transformers")
    stages = [f"stage{i}" for i in range(1, 5)]
    backbone = transformers.SwinConfig(
        embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], window_size=7, out_features=stages
    )
    return transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=classes)


def network(state: Mapping[str, Any], config: Any, where: str) -> Any:
    """transformers' network with a state dict in the hub's names; every tensor must be there and be used. Raises `BadWeights`."""
    transformers: Any = importlib.import_module("transformers")
    logging = transformers.logging
    quiet, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        made, told = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
            None, config=config, state_dict={k: v.float() for k, v in state.items()}, output_loading_info=True
        )
    except RuntimeError as error:  # shapes that differ
        raise BadWeights(f"{where} does not fit Mask2Former: {str(error).splitlines()[-1].strip()[:200]}") from error
    finally:
        logging.set_verbosity(quiet)
        if bar:
            logging.enable_progress_bar()
    lacking = sorted(k for k in told["missing_keys"] if not k.endswith((*UNUSED, CONSTANT)))
    strange = sorted(k for k in told["unexpected_keys"] if not k.endswith((*UNUSED, CONSTANT)))
    wrong = [str(k) for k in told.get("mismatched_keys") or ()]
    for what, names in (("missing", lacking), ("unexpected", strange), ("of another shape", wrong)):
        if names:
            raise BadWeights(f"{where} does not fit Mask2Former: {len(names)} {what}, such as {names[0]}")
    return made


class OfMMDetection(Mask2Former):
    """GenEval's own detector: mmdetection's checkpoint."""

    def _file(self) -> tuple[Path, str]:
        files = dict.fromkeys((FILE, f"{MMDETECTION}.pth"), "sha256:743b7d99")
        way_out = f"Put mmdetection's {FILE} (Apache-2.0) in a folder of {weights.ENVIRONMENT}"
        return pinned("mmdetection's Mask2Former", files, way_out)

    def identity(self) -> Mapping[str, str]:
        """The checkpoint's digest."""
        require("transformers", "transformers>=4.44", "clip", "Mask2Former")
        return {"weights": self._file()[1]}

    def open(self, device: str) -> None:
        """Load the checkpoint; its names and shapes must be those of the published one."""
        path, _ = self._file()
        state = weights.load_state(path)
        problems = weights.key_problems(published(), {k: tuple(v.shape) for k, v in state.items()})
        if problems:
            raise BadWeights(f"{path} is not mmdetection's Mask2Former with Swin-S: {'; '.join(problems)}")
        self.use(network(renamed(state), configuration(), str(path)), device)


class OfTheHub(Mask2Former):
    """Other weights of the same architecture: the hub's repository of the authors' own checkpoint."""

    def _file(self) -> Path:
        names = [f"{HUB}/{file}" for file in ("model.safetensors", "pytorch_model.bin")]
        return weights.find(
            names,
            what="Mask2Former",
            way_out=f"Fetch it: hf download {HUB}, or put its folder in one of {weights.ENVIRONMENT}",
        )

    def identity(self) -> Mapping[str, str]:
        """The file's digest."""
        require("transformers", "transformers>=4.44", "clip", "Mask2Former")
        return {"weights": weights.digest(self._file())}

    def open(self, device: str) -> None:
        """Load the repository's weights; the configuration beside them must be of the same architecture with 80 classes."""
        path = self._file()
        beside = path.parent / "config.json"
        if beside.is_file():
            labels = json.loads(beside.read_text("utf-8")).get("id2label") or {}
            if labels and len(labels) != len(CLASSES):
                raise BadWeights(f"{beside} names {len(labels)} classes; GenEval's are {len(CLASSES)}")
        self.use(network(weights.load_state(path), configuration(), str(path)), device)
