"""ArcFace embeddings of annotated faces: insightface's recognition network alone, on ground-truth landmarks.

The five landmarks are moved onto ArcFace's template by the similarity that fits best (Umeyama 1991), the face is resampled to
112 x 112 (bilinear, black outside the picture) and embedded. No detector and no matching: both pictures use the annotation's
landmarks. Needs onnxruntime only. insightface's packs are for non-commercial research use only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vtbench.api import Batch, Rows
from vtbench.extractors.installed import require
from vtbench.extractors.onnx import session
from vtbench.extractors.pinned import pinned

SIZE = 112
BATCH = 16
DIMENSIONS = 512
USABLE, UNUSABLE = 0, 1
HEADS = ("embedding", "ratio", "status", "face")
# Where ArcFace's training crops have the eyes, the nose and the corners of the mouth (x, y of 112 x 112).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


class Pack(NamedTuple):
    """An insightface pack's recognition network."""

    file: str
    sha256: str


PACKS = {
    "antelopev2": Pack("glintr100.onnx", "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf"),
    "buffalo_s": Pack("w600k_mbf.onnx", "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f"),
}


def similarity(landmarks: np.ndarray, target: np.ndarray = TEMPLATE) -> np.ndarray:
    """The rotation, scale and shift ``[2, 3]`` that moves points ``[5, 2]`` closest to `target` (least squares, no mirroring)."""
    source_mean, target_mean = landmarks.mean(0), target.mean(0)
    source, wanted = landmarks - source_mean, target - target_mean
    spread = float((source**2).sum())
    a = float((source * wanted).sum()) / spread
    b = float((source[:, 0] * wanted[:, 1] - source[:, 1] * wanted[:, 0]).sum()) / spread
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, target_mean - turn @ source_mean])


def aligned(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The face of an image (uint8 ``[H, W, 3]``) on ArcFace's template: uint8 ``[112, 112, 3]``."""
    matrix = similarity(np.asarray(landmarks, np.float64))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    points = (np.stack([columns, rows], -1) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    height, width = image.shape[:2]
    left, top = (np.floor(points[..., i]).astype(np.int64) for i in (0, 1))
    right, down = (points[..., 0] - left)[..., None], (points[..., 1] - top)[..., None]
    framed = np.pad(image, ((1, 1), (1, 1), (0, 0)))

    def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return framed[np.clip(y, -1, height) + 1, np.clip(x, -1, width) + 1].astype(np.float64)

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)


def usable(landmarks: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether five finite landmarks that do not coincide lie, at least one of them, in a picture of this shape."""
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1:
        return False
    inside = (points >= 0).all(1) & (points[:, 0] < shape[1]) & (points[:, 1] < shape[0])
    return bool(inside.any())


class ArcFace:
    """One row per annotated face. args: `pack` (`antelopev2`, `buffalo_s`) and `weights`, the sha256 that the protocol pins.

    Heads: `embedding` float32 ``[R, 512]`` (not normalised), `ratio` (of the annotation), `status` (`USABLE`, or `UNUSABLE`:
    landmarks that are not five distinct finite points touching the picture; its embedding is zero), `face` (running number in its
    image). Pictures in frame `source`; images without faces cost nothing.
    """

    name = "arcface"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.pack = str(args.get("pack") or "antelopev2")
        self.pin = str(args.get("weights") or PACKS[self.pack].sha256)
        self._session: Any = None

    def _file(self) -> tuple[Path, str]:
        name = PACKS[self.pack].file
        folders = (f"insightface/models/{self.pack}", f"models/{self.pack}", self.pack)
        way_out = f"Put insightface's {self.pack}/{name} (non-commercial research only) in a folder of VTBENCH_WEIGHTS"
        files = {f"{folder}/{name}": f"sha256:{self.pin}" for folder in folders}
        return pinned(f"the ArcFace network of {self.pack}", files, way_out)

    def identity(self) -> Mapping[str, str]:
        """The network's digest."""
        require("onnxruntime", "onnxruntime", "face", "comparing faces")
        return {"weights": self._file()[1]}

    def open(self, device: str) -> None:
        """Load the recognition network of the pack; the detector is never needed."""
        self._session = session(self._file()[0], device)

    def embed(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings float32 ``[R, 512]`` of aligned faces (uint8 RGB ``[112, 112, 3]``)."""
        out = np.zeros((len(faces), DIMENSIONS), np.float32)
        feed = self._session.get_inputs()[0].name
        for start in range(0, len(faces), BATCH):
            inputs = np.stack(faces[start : start + BATCH]).transpose(0, 3, 1, 2).astype(np.float32)
            (out[start : start + BATCH],) = self._session.run(None, {feed: (inputs - 127.5) / 127.5})
        return out

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure the faces of a batch."""
        image: list[int] = []
        found: dict[str, list[Any]] = {name: [] for name in ("ratio", "status", "face")}
        crops: list[np.ndarray] = []
        for position, sample in enumerate(batch.samples):
            for number, face in enumerate(sample.faces):
                good = usable(face.landmarks, batch.images[position].shape)
                if good and "embedding" in heads:
                    crops.append(aligned(batch.images[position], face.landmarks))
                image.append(position)
                found["ratio"].append(face.ratio)
                found["status"].append(USABLE if good else UNUSABLE)
                found["face"].append(number)
        where = np.array(image, dtype=np.int64)
        values: dict[str, np.ndarray] = {
            "ratio": np.array(found["ratio"], np.float64),
            "status": np.array(found["status"], np.int8),
            "face": np.array(found["face"], np.int32),
        }
        if "embedding" in heads:
            values["embedding"] = np.zeros((len(image), DIMENSIONS), np.float32)
            values["embedding"][values["status"] == USABLE] = self.embed(crops)
        return {head: Rows(values[head], where) for head in heads}

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Bytes that the store holds for an image, at about two faces an image."""
        return 2 * sum({"embedding": 4 * DIMENSIONS, "ratio": 8, "status": 1, "face": 4}[head] + 8 for head in heads)
