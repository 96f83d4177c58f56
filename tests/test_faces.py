"""Alignment and F-Sim against scikit-image, OpenCV and plain arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from vtbench import registry
from vtbench.api import Batch, Measurements, Value
from vtbench.data import Face
from vtbench.errors import UsageError
from vtbench.extractors.faces import TEMPLATE, UNUSABLE, USABLE, ArcFace, aligned, similarity, usable
from vtbench.suite import load_protocol

LANDMARKS = np.array([[40.0, 52.0], [71.0, 47.0], [58.0, 70.0], [46.0, 90.0], [73.0, 86.0]])


def test_similarity_equals_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(0)
    for _ in range(5):
        points = TEMPLATE * rng.uniform(0.3, 5) + rng.normal(0, 3, (5, 2)) + rng.uniform(-50, 200, 2)
        wanted = transform.SimilarityTransform.from_estimate(points, TEMPLATE).params[:2]
        np.testing.assert_allclose(similarity(points), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (-60.0, 20.0)])
def test_alignment_equals_opencv(shift: tuple[float, float]) -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    image = cv2.resize(small, (120, 100), interpolation=cv2.INTER_CUBIC)
    points = LANDMARKS * 0.9 + np.array(shift)
    wanted = cv2.warpAffine(image, similarity(points), (112, 112), borderValue=0.0)
    difference = np.abs(aligned(image, points).astype(int) - wanted.astype(int))
    # OpenCV 4 rounds the sampling position to 1/32 px.
    limit = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 12
    assert difference.max() <= limit


def test_landmarks_on_the_template_leave_the_picture_as_it_is() -> None:
    image = np.random.default_rng(2).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(aligned(image, TEMPLATE), image)


@pytest.mark.parametrize(
    ("points", "good"),
    [
        (LANDMARKS, True),
        (LANDMARKS + 1000, False),  # outside the picture
        (np.full((5, 2), 3.0), False),  # one point
        (np.where(np.arange(10).reshape(5, 2) == 3, np.nan, LANDMARKS), False),
        (LANDMARKS[:4], False),
    ],
)
def test_usable(points: np.ndarray, good: bool) -> None:
    assert usable(points, (100, 120, 3)) is good


class Mean:
    """A session whose embedding is the face's colours, to see what the network is fed."""

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="data")]

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert feed["data"].shape[1:] == (3, 112, 112)
        assert feed["data"].dtype == np.float32
        out = np.zeros((len(feed["data"]), 512), np.float32)
        out[:, :3] = feed["data"].mean((2, 3))
        return [out]


def test_rows_and_the_network_input() -> None:
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 0] = 255
    box = (0.0, 0.0, 1.0, 1.0)
    samples = [
        SimpleNamespace(faces=(), words=()),
        SimpleNamespace(faces=(Face(TEMPLATE + 900, box, 0.2), *[Face(TEMPLATE, box, 0.3)] * 20), words=()),
    ]
    extractor = ArcFace({"pack": "buffalo_s"})
    extractor._session = Mean()
    rows = extractor(Batch(samples, [red, red]), ["embedding", "ratio", "status", "face"])
    assert rows["status"].values.tolist() == [UNUSABLE] + [USABLE] * 20
    assert rows["embedding"].values.shape == (21, 512)
    assert not rows["embedding"].values[0].any()
    np.testing.assert_allclose(rows["embedding"].values[1:, :3], [[1.0, -1.0, -1.0]] * 20, atol=1e-6)  # RGB in [-1, 1]
    assert rows["face"].image is not None
    assert rows["face"].image.tolist() == [1] * 21


class Column:
    """A column that lies in memory."""

    def __init__(self, values: np.ndarray, image: np.ndarray) -> None:
        self.values, self.image = values, image

    def array(self) -> np.ndarray:
        return self.values


def score(ratio: list[float], status: list[int], a: np.ndarray, b: np.ndarray, **changes: str) -> dict[str, Value]:
    image = np.arange(len(ratio))
    columns = {
        "ratio": Column(np.array(ratio), image),
        "status": Column(np.array(status, np.int8), image),
        "original": Column(a, image),
        "embedding": Column(b, image),
    }
    m = Measurements(columns, {"id": image}, image % 4)  # type: ignore[arg-type]
    fields = load_protocol("tokbench").override(changes).fields(256)
    out = {}
    for name in ("f_sim", "faces_scored", "faces_dropped"):
        out |= {f"{name}/{v.slice}": v for v in registry.metric(name).compute(m, fields)}
    return out


def test_f_sim_by_hand() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(7, 512)).astype(np.float32), rng.normal(size=(7, 512)).astype(np.float32)
    b[0], b[1] = 3 * a[0], -a[1]  # not clipped at 0
    ratio = [0.1, 0.15, 0.2, 0.29, 0.3, 0.05, 0.5]
    out = score(ratio, [0, 0, 0, 0, 0, 0, 1], a, b)
    cosine = [float(x @ y / np.sqrt((x @ x) * (y @ y))) for x, y in zip(a.astype(float), b.astype(float))]
    assert out["f_sim/small"].samples is not None
    np.testing.assert_allclose(out["f_sim/small"].samples, [1.0, -1.0], atol=1e-12)
    np.testing.assert_allclose(out["f_sim/medium"].samples, cosine[2:4], rtol=1e-9)  # type: ignore[arg-type]
    mean = (0.0 + np.mean(cosine[2:4]) + cosine[4]) / 3
    assert out["f_sim/mean"].value == pytest.approx(mean, rel=1e-9)
    assert out["faces_scored/all"].value == 5.0
    assert out["faces_dropped/all"].value == 2.0
    assert out["faces_dropped/reason=unusable-landmarks"].value == 1.0
    assert out["faces_dropped/reason=size-outside-bins"].value == 1.0


def test_older_face_sizes() -> None:
    ratio = [0.05, 0.1, 0.2, 0.3]
    a = np.eye(4, 512, dtype=np.float32)
    newer, older = score(ratio, [0] * 4, a, a), score(ratio, [0] * 4, a, a, faces="v1")
    assert [newer[f"faces_scored/{s}"].value for s in ("all", "small", "medium", "large")] == [3, 1, 1, 1]
    assert [older[f"faces_scored/{s}"].value for s in ("all", "small", "medium", "large")] == [4, 1, 1, 2]
    assert load_protocol("tokbench+faces=v1").name == "tokbench+faces=v1"
    with pytest.raises(UsageError, match="no face sizes 'v3'"):
        score(ratio, [0] * 4, a, a, faces="v3")


def test_no_faces() -> None:
    empty = np.zeros((0, 512), np.float32)
    out = score([], [], empty, empty)
    assert (out["f_sim/mean"].status, out["f_sim/mean"].why) == ("skipped", "no faces to score")
