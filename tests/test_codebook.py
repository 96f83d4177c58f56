"""Rows of tokens, and codebook use against plain counting."""

from __future__ import annotations

import numpy as np
import pytest

from vtbench import registry
from vtbench.api import Batch, Condition, Measurements, Stream, Tokens, Value
from vtbench.extractors.tokens import TokenRows
from vtbench.tokens.spelled import read, spell

HEADS = ("ids", "streams", "used", "bits", "caption_bits", "pixels")


class Column:
    """A column of several blocks."""

    def __init__(self, values: np.ndarray, cuts: tuple[int, ...] = ()) -> None:
        self.values, self.image, self.cuts = values, np.arange(len(values)), (0, *cuts, len(values))

    def blocks(self):  # type: ignore[no-untyped-def]
        for a, b in zip(self.cuts, self.cuts[1:]):
            yield self.image[a:b], self.values[a:b]

    def array(self) -> np.ndarray:
        return self.values


def rows_of(tokens: Tokens) -> dict[str, np.ndarray]:
    found = TokenRows({})(Batch([None] * tokens.size, tokens=tokens, pixels=64), HEADS)
    return {head: rows.values for head, rows in found.items()}


def values_of(tokens: Tokens, cuts: tuple[int, ...] = (), groups: int = 4) -> dict[str, Value]:
    columns = {head: Column(values, cuts) for head, values in rows_of(tokens).items()}
    m = Measurements(columns, {"id": np.arange(tokens.size)}, np.arange(tokens.size) % groups)
    out = {}
    for name in ("tokens_used", "codebook_usage", "codebook_perplexity"):
        out |= {f"{name}/{v.slice}": v for v in registry.metric(name).compute(m, {})}
    return out


def test_streams_come_back() -> None:
    streams = (
        Stream("coarse", "index", "multiscale", (4096,), (1, 2, 3), residual=True),
        Stream("fine|x", "bits", "seq1d", (2,) * 18, (7,), ordered=True, shared_index=True),
    )
    assert read(spell(streams)) == streams
    assert read(spell(())) == ()


def test_variable_lengths() -> None:
    ids = np.arange(12).reshape(3, 4)
    tokens = Tokens((Stream("t", "index", "seq1d", (16,), (4,)),), {"t": ids}, 3, np.array([4, 2, 0]), nmax=4)
    rows = rows_of(tokens)
    assert rows["ids"].tolist() == [[0, 1, 2, 3], [4, 5, -1, -1], [-1] * 4]
    assert rows["ids"].dtype == np.int32
    assert rows["used"].tolist() == [4, 2, 0]
    assert rows["bits"].tolist() == [18.0, 10.0, 2.0]  # 4 bits a token, and 2 for the length
    assert rows["pixels"].tolist() == [64] * 3
    assert rows["caption_bits"].tolist() == [0.0] * 3


def test_lengths_that_vary_show_their_distribution() -> None:
    lengths = np.array([32, 64, 64, 96, 96, 96, 128, 160, 192, 256])
    tokens = Tokens((Stream("t", "index", "seq1d", (16,), (256,)),), {"t": np.zeros((10, 256), int)}, 10, lengths, 256)
    found = {k.partition("/")[2]: v for k, v in values_of(tokens).items() if k.startswith("tokens_used/")}
    assert found["all"].samples.tolist() == lengths.tolist()
    assert [found[k].value for k in ("min", "median", "max")] == [32, 96, 256]
    assert [found[k].value for k in ("p10", "p90")] == [float(np.quantile(lengths, q)) for q in (0.1, 0.9)]
    left = [np.median(lengths[np.arange(10) % 4 != g]) for g in range(4)]
    assert found["median"].groups.tolist() == left and found["max"].groups is None
    fixed = Tokens((Stream("t", "index", "seq1d", (16,), (4,)),), {"t": np.zeros((3, 4), int)}, 3)
    assert [k for k in values_of(fixed) if k.startswith("tokens_used/")] == ["tokens_used/all"]


def test_several_streams_and_codebooks() -> None:
    a, b = np.arange(4).reshape(2, 2), np.arange(12).reshape(2, 3, 2)
    streams = (Stream("a", "index", "seq1d", (8,), (2,)), Stream("b", "index", "seq1d", (16, 32), (3,)))
    rows = rows_of(Tokens(streams, {"a": a, "b": b}, 2, condition=[Condition("1", caption="né"), Condition("2")]))
    assert rows["ids"].shape == (2, 5, 2)
    assert rows["ids"][1].tolist() == [[2, -1], [3, -1], [6, 7], [8, 9], [10, 11]]
    assert rows["used"].tolist() == [5, 5]
    assert rows["bits"].tolist() == [2 * 3 + 3 * 9] * 2
    assert rows["caption_bits"].tolist() == [24.0, 0.0]


@pytest.mark.parametrize("kind", ["continuous", "bytes"])
def test_no_codebook(kind: str) -> None:
    data = [b"abc", b"de"] if kind == "bytes" else np.zeros((2, 4, 8), np.float32)
    tokens = Tokens((Stream("z", kind),), {"z": data}, 2)  # type: ignore[arg-type]
    rows = rows_of(tokens)
    assert rows["ids"].shape == (2, 0)
    if kind == "bytes":
        assert rows["bits"].tolist() == [24.0, 16.0]
    else:
        assert np.isnan(rows["bits"]).all()
    out = values_of(tokens)
    assert len(out) == 3
    assert all(v.status == "skipped" and "codebook" in v.why for v in out.values())


def test_usage_and_perplexity_against_plain_counting() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    size, images = 50, 12
    ids = np.minimum(rng.geometric(0.08, (images, 30)) - 1, size - 1)
    tokens = Tokens((Stream("t", "index", "grid2d", (size,), (5, 6)),), {"t": ids}, images)
    whole, cut = values_of(tokens), values_of(tokens, cuts=(1, 5))
    assert whole["tokens_used/all"].samples is not None
    assert set(whole["tokens_used/all"].samples.tolist()) == {30}

    def perplexity(part: np.ndarray) -> float:
        _, counts = np.unique(part, return_counts=True)
        return float(2 ** stats.entropy(counts, base=2))

    usage, perp = whole["codebook_usage/all"], whole["codebook_perplexity/all"]
    assert usage.value == pytest.approx(100 * len(np.unique(ids)) / size)
    assert usage.notes == {"N": 360, "K": 50, "usage_if_uniform": pytest.approx(100 * (1 - (1 - 1 / 50) ** 360))}
    assert perp.value == pytest.approx(perplexity(ids), rel=1e-12)
    assert perp.groups is not None
    left = [perplexity(ids[np.arange(images) % 4 != g]) for g in range(4)]
    np.testing.assert_allclose(perp.groups, left, rtol=1e-12)
    assert cut["codebook_usage/all"].value == usage.value
    np.testing.assert_array_equal(cut["codebook_perplexity/all"].groups, perp.groups)  # type: ignore[arg-type]


def test_uniform_use_has_perplexity_k() -> None:
    ids = np.arange(64).reshape(8, 8)
    out = values_of(Tokens((Stream("t", "index", "seq1d", (64,), (8,)),), {"t": ids}, 8))
    assert out["codebook_perplexity/all"].value == pytest.approx(64.0)
    assert out["codebook_usage/all"].value == 100.0


def test_product_codes_count_each_codebook() -> None:
    ids = np.zeros((4, 6, 2), np.int64)
    ids[..., 1] = np.arange(24).reshape(4, 6) % 8
    out = values_of(Tokens((Stream("t", "index", "seq1d", (4, 8), (6,)),), {"t": ids}, 4))
    values = {k: v.value for k, v in out.items() if k.startswith("codebook_usage")}
    assert values == {
        "codebook_usage/codebook=0": 25.0,
        "codebook_usage/codebook=1": 100.0,
        "codebook_usage/mean": 62.5,
    }
    assert out["codebook_perplexity/codebook=0"].value == 1.0
    assert out["codebook_perplexity/mean"].groups is not None


def test_bits_of_a_position_are_one_word() -> None:
    bits = np.random.default_rng(1).integers(0, 2, (4, 16, 5))
    out = values_of(Tokens((Stream("t", "bits", "seq1d", (2,) * 5, (16,)),), {"t": bits}, 4))
    words = np.unique((bits * 2 ** np.arange(4, -1, -1)).sum(-1))
    assert out["codebook_usage/all"].value == pytest.approx(100 * len(words) / 32)


def test_padding_is_no_token() -> None:
    ids = np.tile(np.arange(4), (4, 1))
    lengths = np.array([1, 2, 2, 0])
    out = values_of(Tokens((Stream("t", "index", "seq1d", (8,), (4,)),), {"t": ids}, 4, lengths, nmax=4))
    assert out["codebook_usage/all"].value == 25.0
    assert out["codebook_usage/all"].notes["N"] == 5
