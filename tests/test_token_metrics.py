"""Token metrics over measurements: what they say of tokens whose law is known, their nulls, and what they refuse to say."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtbench import registry
from vtbench.api import Measurements, Stream, Value
from vtbench.suite import load_protocol, load_suite
from vtbench.tokens.files import HeldColumn, image_groups
from vtbench.tokens.spelled import spell


def _measurements(ids: np.ndarray, stream: Stream | tuple[Stream, ...], **more: Any) -> Measurements:
    streams = stream if isinstance(stream, tuple) else (stream,)
    columns: dict[str, Any] = {
        "ids": HeldColumn(ids),
        "streams": HeldColumn(np.array([spell(streams)]), np.zeros(1, np.int64)),
        "pixels": HeldColumn(np.full(1, 65536), np.zeros(1, np.int64)),
        **{k: v for k, v in more.items() if k != "label"},
    }
    samples = {"label": more["label"]} if "label" in more else {}
    return Measurements(columns, samples, image_groups(len(ids), 50))


def _fields(name: str = "tokens", **changes: Any) -> dict[str, Any]:
    small = {"compress_tokens": 1 << 14, "bpe_tokens": 1 << 13, "bpe_merges": [16]} if name == "tokens" else {}
    return {**load_protocol(name).fields(256), **small, **changes}


def _run(name: str, m: Measurements, fields: dict[str, Any] | None = None) -> dict[str, Value]:
    values = list(registry.metric(name).compute(m, fields or _fields()))
    found = {v.slice: v for v in values}
    assert len(found) == len(values), "two values of one slice"
    return found


def _number(value: Value) -> float:
    assert value.status == "ok", value.why
    if value.samples is not None:
        return float(np.mean(value.samples))
    assert value.value is not None
    return value.value


def _grid(size: int, side: int = 8, **more: Any) -> Stream:
    return Stream("tokens", "index", "grid2d", (size,), (side, side), **more)


def _zipfian(images: int, size: int, positions: int = 64, s: float = 0.8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = np.arange(1, size + 1) ** -s
    return rng.choice(rng.permutation(size), (images, positions), p=p / p.sum()).astype(np.int32)


HAVE_POWERLAW = importlib.util.find_spec("powerlaw") is not None  # of [tokens]
STATISTICS = [
    entry.name
    for entry in load_suite("token-statistics").metrics
    if entry.name != "tokens_used" and (HAVE_POWERLAW or not entry.name.startswith("powerlaw_"))
]


@pytest.fixture(scope="module")
def zipfian() -> Measurements:
    return _measurements(_zipfian(1000, 256), _grid(256))


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_has_a_finite_value_or_a_reason(name: str, zipfian: Measurements) -> None:
    for value in _run(name, zipfian).values():
        if value.status == "skipped":
            assert value.why
        else:
            assert math.isfinite(_number(value))


SKEWED = np.repeat(np.arange(4, dtype=np.int32), [9, 1, 1, 1])[:, None].repeat(64, 1)
"""Twelve images of one symbol each: any group moves what is pooled a lot."""
EVEN = np.tile(np.random.default_rng(0).permutation(8).astype(np.int32), (6, 8))
BITS = {"entropy": 1, "entropy_per_position": 1, "ngram_entropy": 4, "conditional_entropy": 1}


SPARSE = np.random.default_rng(0).integers(0, 8, (7, 64)).astype(np.int32)


@pytest.mark.parametrize("ids", [SKEWED, EVEN, SPARSE], ids=["skewed", "even", "sparse"])
@pytest.mark.parametrize("name", [*STATISTICS, "codebook_perplexity"])
def test_values_and_the_ends_of_intervals_lie_on_their_scale(name: str, ids: np.ndarray) -> None:
    for slice_, value in _run(name, _measurements(ids, _grid(8))).items():
        low, high = value.bounds or registry.metric(name).bounds
        if value.status == "ok" and value.value is not None:
            assert low - 1e-9 <= value.value <= high + 1e-9, slice_
        if name.endswith("perplexity") and value.groups is not None:
            assert (low, high) == (1, 8)
        if name in BITS and value.status == "ok" and value.samples is None:
            assert 0 <= value.value <= BITS[name] * math.log2(8), slice_


@pytest.mark.parametrize(
    "name", ["zipf_exponent", "entropy", "heaps_slope", "ngram_entropy", "huffman_saving", "compressed_bits"]
)
def test_every_law_stands_beside_its_null(name: str, zipfian: Measurements) -> None:
    slices = _run(name, zipfian)
    assert any("null=uniform" in s for s in slices)
    assert any("null=" not in s for s in slices)


@pytest.mark.parametrize(
    "name", ["zipf_exponent", "entropy", "codes_seen", "heaps_slope", "ngram_novelty", "benford_mad"]
)
def test_rows_carry_n_m_and_n_over_k(name: str, zipfian: Measurements) -> None:
    notes = next(v.notes for v in _run(name, zipfian).values() if "null" not in v.slice)
    assert {"N", "M", "K", "N/K"} <= set(notes)


def test_pooled_values_have_fifty_leave_one_out_values(zipfian: Measurements) -> None:
    for name in (
        "zipf_exponent",
        "entropy",
        "perplexity",
        "codes_alive",
        "huffman_saving",
        "yule_simon_rho",
        "heaps_slope",
    ):
        value = next(iter(_run(name, zipfian).values()))
        assert value.groups is not None
        assert len(value.groups) == 50
        assert np.isfinite(value.groups).all()


def test_zipf_and_its_nulls(zipfian: Measurements) -> None:
    found = _run("zipf_exponent", zipfian)
    assert _number(found["all"]) == pytest.approx(0.8, abs=0.03)
    assert _number(found["null=uniform"]) == pytest.approx(0, abs=0.03)
    assert _number(found["null=shuffled"]) == pytest.approx(0.8, abs=0.03)
    assert "N/K" not in found["all"].why


def test_zipf_says_when_tokens_are_few_and_refuses_when_nearly_all_are_new() -> None:
    few = _run("zipf_exponent", _measurements(_zipfian(100, 1024), _grid(1024)))
    assert "below 60" in few["all"].why
    rng = np.random.default_rng(0)
    new = _measurements(rng.permutation(1 << 16)[:6400].reshape(100, 64).astype(np.int32), _grid(1 << 16))
    refused = _run("zipf_exponent", new)["all"]
    assert refused.status == "skipped"
    assert "V/N" in refused.why


def test_a_curve_that_bends_over_all_of_its_ranks_is_not_called_zipfian() -> None:
    p = np.exp(-np.arange(256) / 40.0)
    ids = np.random.default_rng(0).choice(256, (800, 64), p=p / p.sum()).astype(np.int32)
    found = _run("zipf_exponent", _measurements(ids, _grid(256)))
    assert found["all"].status == "skipped"
    assert "not Zipfian" in found["all"].why
    assert _number(found["q=0"]) > 0.3


def test_entropy_is_that_of_the_law_and_plug_in_stands_beside(zipfian: Measurements) -> None:
    p = np.arange(1, 257) ** -0.8
    p /= p.sum()
    truth = float(-(p * np.log2(p)).sum())
    found = _run("entropy", zipfian)
    assert _number(found["all"]) == pytest.approx(truth, abs=0.01)
    assert _number(found["estimator=plugin"]) < _number(found["all"])
    assert _number(_run("perplexity", zipfian)["all"]) == pytest.approx(2**truth, rel=0.01)
    assert _number(_run("redundancy", zipfian)["all"]) == pytest.approx(1 - truth / 8, abs=0.002)
    assert _number(_run("kl_to_uniform", zipfian)["order=1"]) == pytest.approx(8 - truth, abs=0.01)
    assert _number(_run("entropy_per_position", zipfian)["all"]) == pytest.approx(truth, abs=0.06)
    bits = _run("bits_per_pixel", zipfian)
    assert _number(bits["bits=nominal"]) == pytest.approx(8 * 64 / 65536)
    assert _number(bits["bits=empirical"]) == pytest.approx(truth * 64 / 65536, rel=0.01)


def test_independent_tokens_look_like_their_shuffled_null_in_every_scan(zipfian: Measurements) -> None:
    found = _run("ngram_entropy", zipfian)
    for scan in ("raster", "column", "snake", "hilbert"):
        assert _number(found[f"order=2;scan={scan}"]) == pytest.approx(
            _number(found["order=2;null=shuffled"]), abs=0.02
        )
    assert _number(found["order=2x2"]) == pytest.approx(_number(found["order=2x2;null=shuffled"]), abs=0.02)
    assert _number(found["order=2;null=uniform"]) > _number(found["order=2;scan=raster"]) + 0.5


def test_rows_that_repeat_their_left_neighbour_are_seen_by_the_raster_scan_only() -> None:
    rng = np.random.default_rng(0)
    ids = np.repeat(rng.integers(0, 16, (300, 8, 1)), 8, axis=2).reshape(300, 64).astype(np.int32)
    m = _measurements(ids, _grid(16))
    found = _run("ngram_entropy", m)
    assert _number(found["order=2;scan=raster"]) < 5.2
    assert _number(found["order=2;scan=column"]) > 7.5
    lower = _run("conditional_entropy", m)
    assert _number(lower["context=1;scan=raster"]) < 1.1
    mi = _run("mutual_information", m)
    assert _number(mi["offset=0x1"]) == pytest.approx(4, abs=0.1)
    assert _number(mi["offset=1x0"]) == pytest.approx(0, abs=0.02)


def test_conditional_entropy_brackets_a_markov_chain() -> None:
    rng = np.random.default_rng(0)
    step = rng.dirichlet(np.full(16, 0.4), 16)
    start = np.linalg.matrix_power(step, 200)[0]
    rate = float(-(start[:, None] * step * np.log2(step + 1e-300)).sum())
    ids = np.empty((1500, 64), np.int32)
    ids[:, 0] = rng.choice(16, 1500, p=start)
    for t in range(1, 64):
        ids[:, t] = (rng.random(1500)[:, None] > step.cumsum(axis=1)[ids[:, t - 1]]).sum(axis=1).clip(0, 15)
    m = _measurements(ids, Stream("tokens", "index", "seq1d", (16,), (64,), True))
    found = _run("conditional_entropy", m)
    low, high = _number(found["context=1;scan=native;bound=lower"]), _number(found["context=1;scan=native;bound=upper"])
    assert low - 0.01 <= rate <= high + 0.02
    assert _number(found["context=1;scan=native"]) == pytest.approx(rate, abs=0.05)
    models = _run("kn_bits_per_token", m)
    assert set(models) == {
        *(f"order={n};scan=native" for n in (1, 2, 3, 4)),
        *(f"order={n};scan=native;null=shuffled" for n in (2, 3)),
    }
    assert _number(models["order=2;scan=native"]) < _number(models["order=1;scan=native"]) - 0.3


def test_conditional_entropy_is_refused_where_the_bracket_is_wide() -> None:
    found = _run("conditional_entropy", _measurements(_zipfian(200, 2048, s=0.2), _grid(2048)))
    assert found["context=1;scan=raster"].status == "skipped"
    assert "more tokens are needed" in found["context=1;scan=raster"].why


def test_mutual_information_is_refused_at_full_size_and_clustered_with_a_codebook() -> None:
    ids = _zipfian(600, 4096)
    refused = _run("mutual_information", _measurements(ids, _grid(4096)))["all"]
    assert refused.status == "skipped"
    assert "no codebook" in refused.why
    book = np.random.default_rng(0).normal(size=(4096, 4)).astype(np.float32)
    m = _measurements(ids, _grid(4096), codebook=HeldColumn(book, np.zeros(4096, np.int64)))
    found = _run("mutual_information", m)["offset=0x1"]
    assert 2 <= found.notes["classes"] <= 256
    assert _number(found) == pytest.approx(0, abs=0.02)


def test_a_dead_half_of_the_codebook_is_found() -> None:
    ids = _zipfian(800, 512, s=0.0)
    found = _measurements(ids, _grid(1024))
    assert _number(_run("codes_seen", found)["all"]) == 512
    assert _number(_run("codes_alive", found)["all"]) == pytest.approx(512, abs=2)
    assert _number(_run("codes_seen", found)["null=uniform"]) == 1024
    assert _number(_run("entropy", found)["all"]) == pytest.approx(9, abs=0.01)
    assert _number(_run("huffman_saving", found)["all"]) == pytest.approx(0, abs=1)


def test_constant_tokens() -> None:
    m = _measurements(np.full((60, 64), 3, np.int32), _grid(256))
    assert _number(_run("entropy", m)["all"]) == 0
    assert _number(_run("redundancy", m)["all"]) == 1
    for name in STATISTICS:
        for value in _run(name, m).values():
            assert value.status == "skipped" or math.isfinite(_number(value)), name


def test_one_image_is_told_and_not_guessed() -> None:
    m = _measurements(_zipfian(1, 256), _grid(256))
    for name in STATISTICS:
        found = _run(name, m)
        assert all(v.why for v in found.values() if v.status == "skipped"), name
    assert _run("zipf_exponent", m)["all"].status == "skipped"
    assert _run("entropy", m)["all"].status == "skipped"
    assert _number(_run("entropy", m)["estimator=plugin"]) > 0
    assert _run("kn_bits_per_token", m)["order=1;scan=raster"].status == "skipped"


def test_streams_and_codebooks_are_studied_apart_and_small_products_together() -> None:
    rng = np.random.default_rng(0)
    two = np.stack([rng.integers(0, 16, (200, 64)), rng.integers(0, 4, (200, 64))], axis=2).astype(np.int32)
    found = _run("entropy", _measurements(two, Stream("tokens", "index", "grid2d", (16, 4), (8, 8))))
    assert _number(found["codebook=0"]) == pytest.approx(4, abs=0.01)
    assert _number(found["codebook=1"]) == pytest.approx(2, abs=0.01)
    assert _number(found["codebook=joint"]) == pytest.approx(6, abs=0.02)
    coarse, fine = rng.integers(0, 8, (200, 4)), rng.integers(0, 32, (200, 16))
    streams = (
        Stream("coarse", "index", "grid2d", (8,), (2, 2)),
        Stream("fine", "index", "grid2d", (32,), (4, 4)),
    )
    found = _run("entropy", _measurements(np.concatenate([coarse, fine], axis=1).astype(np.int32), streams))
    assert _number(found["stream=coarse"]) == pytest.approx(3, abs=0.02)
    assert _number(found["stream=fine"]) == pytest.approx(5, abs=0.02)


def test_many_codebooks_become_their_mean_with_each_value_in_the_notes() -> None:
    rng = np.random.default_rng(0)
    sizes = (2, 4) * 8
    ids = np.stack([rng.integers(0, k, (200, 16)) for k in sizes], axis=2).astype(np.int32)
    m = _measurements(ids, Stream("tokens", "index", "grid2d", sizes, (4, 4)))
    found = _run("entropy", m)
    assert set(found) == {
        "codebook=mean",
        "codebook=mean;estimator=plugin",
        "codebook=mean;estimator=plugin;null=uniform",
    }
    assert _number(found["codebook=mean"]) == pytest.approx(1.5, abs=0.01)
    assert found["codebook=mean"].notes["codebooks"] == pytest.approx([1, 2] * 8, abs=0.02)
    assert found["codebook=mean"].groups is not None
    bits = _run("bits_per_pixel", m)
    assert _number(bits["bits=nominal"]) == pytest.approx(24 * 16 / 65536)
    assert _number(bits["codebook=mean;bits=nominal"]) == pytest.approx(1.5 * 16 / 65536)


def test_bits_are_studied_as_the_word_that_they_make() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (300, 16, 5)).astype(np.int32)
    found = _run("entropy", _measurements(bits, Stream("tokens", "bits", "grid2d", (2,) * 5, (4, 4))))
    assert _number(found["all"]) == pytest.approx(5, abs=0.02)


def test_variable_lengths_leave_the_padding_out() -> None:
    ids = _zipfian(400, 64)
    ids[::2, 32:] = -1
    m = _measurements(ids, Stream("tokens", "index", "seq1d", (64,), (64,), True))
    assert _run("entropy", m)["all"].n == 200 * 64 + 200 * 32
    profile = _run("entropy_per_position", m)["all"].notes["profile"]
    assert len(profile) == 64
    assert all(math.isfinite(v) for v in profile)
    assert _run("ngram_novelty", m)["order=2;scan=native"].n == 200 * 63 + 200 * 31


def test_continuous_tokens_are_skipped_with_the_reason() -> None:
    m = _measurements(np.zeros((5, 0), np.int32), Stream("latent", "continuous", "grid2d", (), (8, 8)))
    for name in (*STATISTICS, "kn_bits_per_token", "ar_bits_per_token"):
        (value,) = registry.metric(name).compute(m, _fields())
        assert value.status == "skipped"
        assert "continuous" in value.why


def test_images_of_different_grids_are_read_in_their_native_order() -> None:
    ids = _zipfian(40, 64)
    ids[20:, 32:] = -1
    m = _measurements(ids, _grid(64))
    several = [spell([Stream("tokens", "index", "grid2d", (64,), shape)]) for shape in ((8, 8), (4, 8))]
    m.columns = {**m.columns, "streams": HeldColumn(np.repeat(np.array(several), 20))}
    found = _run("ngram_novelty", m)
    assert found["order=2;scan=native"].n == 20 * 63 + 20 * 31
    assert not any("raster" in name for name in found)


def test_a_codebook_too_large_to_count_is_skipped() -> None:
    (value,) = registry.metric("entropy").compute(_measurements(_zipfian(5, 64), _grid(1 << 24)), _fields())
    assert value.status == "skipped"
    assert "too large to count" in value.why


def test_values_do_not_depend_on_how_the_column_is_cut() -> None:
    ids = _zipfian(300, 128)

    class Cut(HeldColumn):
        def blocks(self) -> Any:
            for start in range(0, 300, 17):
                yield self.image[start : start + 17], self.values[start : start + 17]

    whole, cut = _measurements(ids, _grid(128)), _measurements(ids, _grid(128))
    cut.columns = {**cut.columns, "ids": Cut(ids)}
    for name in ("zipf_exponent", "entropy", "heaps_slope", "ngram_entropy", "kn_bits_per_token", "compressed_bits"):
        a, b = _run(name, whole), _run(name, cut)
        assert {k: _number(v) for k, v in a.items()} == {k: _number(v) for k, v in b.items()}


def test_the_transformer_is_trained_once_for_three_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtbench.tokens import transformer
    from vtbench.tokens.kneser_ney import HeldOut

    calls = []

    def held_out(ids: np.ndarray, size: int, budget: Any, *, device: str | None = None) -> HeldOut:
        calls.append(budget)
        return HeldOut(
            np.array([3.0, 5.0]), np.array([192.0, 320.0]), np.full(64, 4.0), np.array([4, 9]), (100, 20), 3.5
        )

    monkeypatch.setattr(transformer, "held_out", held_out)
    m = _measurements(_zipfian(20, 32, seed=77), _grid(32))
    token = _run("ar_bits_per_token", m)["all"]
    assert _number(token) == 4
    assert token.notes["gap"] == pytest.approx(0.5)
    assert _number(_run("ar_bits_per_image", m)["all"]) == 256
    assert _number(_run("ar_bits_per_pixel", m)["all"]) == pytest.approx(256 / 65536)
    assert len(calls) == 1
    assert calls[0].tokens == _fields()["ar_tokens"]


# ------------------------------------------------------------------------------------------------ robustness


def _pair(ids: np.ndarray, other: np.ndarray, name: str, stream: Stream) -> Measurements:
    return _measurements(ids, stream, **{name: HeldColumn(other)})


def test_idempotency_counts_the_tokens_that_stay() -> None:
    ids = _zipfian(10, 64)
    again, third = ids.copy(), ids.copy()
    again[:, :16] = (again[:, :16] + 1) % 64
    third[0] = (third[0] + 1) % 64
    m = _measurements(ids, _grid(64), ids1=HeldColumn(again), ids2=HeldColumn(third))
    found = _run("idempotency", m, {"rounds": 2})
    assert _number(found["all"]) == 0.75
    assert _number(found["round=2"]) == pytest.approx(0.9)
    assert _number(found["step=2"]) == pytest.approx((9 * 0.75 + 0.25) / 10)
    assert _number(_run("idempotent_images", m, {"rounds": 1})["all"]) == 0
    same = _measurements(ids, _grid(64), ids1=HeldColumn(ids.copy()))
    assert _number(_run("idempotency", same, {"rounds": 1})["all"]) == 1
    assert _number(_run("idempotent_images", same, {"rounds": 1})["all"]) == 100


def test_shift_equivariance_is_one_for_tokens_that_move_with_the_picture_and_zero_for_independent_ones() -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 32, (200, 9, 9))
    ids, right, down = wide[:, 1:, 1:], wide[:, 1:, :-1], wide[:, :-1, 1:]
    fields = {"cell_shift": 16, "resolution": 128}

    def run(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> dict[str, Value]:
        flat = [x.reshape(200, 64).astype(np.int32) for x in (a, b, c)]
        return _run(
            "shift_equivariance",
            _measurements(flat[0], _grid(32), right=HeldColumn(flat[1]), down=HeldColumn(flat[2])),
            fields,
        )

    found = run(ids, right, down)
    assert _number(found["shift=right"]) == 1
    assert _number(found["shift=down"]) == 1
    other = run(ids, rng.integers(0, 32, ids.shape), rng.integers(0, 32, ids.shape))
    assert _number(other["shift=right"]) == pytest.approx(0, abs=0.02)
    (refused,) = (
        run(ids, right, down)
        and _run(
            "shift_equivariance", _measurements(_zipfian(5, 32), _grid(32)), {"cell_shift": 20, "resolution": 128}
        ).values()
    )
    assert "whole number of cells" in refused.why


def test_stability_reads_the_changed_inputs_that_the_protocol_names() -> None:
    fields = _fields("token-robustness")
    needs = registry.metric("token_stability").needs(fields)
    assert needs["jpeg=75"].at.spelled() == "run(jpeg[quality=75](load))"
    assert needs["shift=0x1"].at.spelled() == "run(shift[dx=1,dy=0](load))"
    ids = _zipfian(10, 64)
    columns = {k: HeldColumn(ids.copy()) for k in needs if "=" in k}
    columns["jpeg=50"] = HeldColumn((ids + 1) % 64)
    found = _run("token_stability", _measurements(ids, _grid(64), **columns), fields)
    assert _number(found["jpeg=50"]) == 0
    assert _number(found["jpeg=90"]) == 1


def test_coarse_to_fine_of_an_additive_decoder() -> None:
    from vtbench.metrics.token_probes import area, first_above

    budgets = np.array([1, 2, 4, 8])
    # Every doubling halves the error's amplitude: 6.02 dB a doubling.
    mse = np.stack([np.full(3, 0.1 / 4**k) for k in range(4)], axis=1)
    l1 = np.sqrt(mse)
    columns = {
        "prefix_budgets": HeldColumn(budgets),
        "prefix_mse": HeldColumn(mse),
        "prefix_l1": HeldColumn(l1),
        "complexity": HeldColumn(np.array([1.0, 2.0, 3.0])),
    }
    m = Measurements(columns, {}, np.zeros(3, int))
    fields = _fields("token-robustness", length_errors=[0.1], quality_gap=6.0206)
    curve = _run("prefix_psnr", m, fields)
    assert _number(curve["k=1"]) == pytest.approx(10)
    assert _number(curve["k=8"]) == pytest.approx(10 + 3 * 6.0206, abs=1e-3)
    assert _number(curve["all"]) == pytest.approx(10 + 1.5 * 6.0206, abs=1e-3)
    gain = _run("prefix_gain", m, fields)
    assert _number(gain["k=1-2"]) == pytest.approx(6.0206, abs=1e-3)
    assert _number(gain["k=4-8"]) == pytest.approx(6.0206 / 4, abs=1e-3)
    assert _number(_run("tokens_to_quality", m, fields)["all"]) == pytest.approx(4, abs=0.01)
    assert 2 < _number(_run("adaptive_length", m, fields)["eps=0.1"]) < 4
    columns["prefix_l1"] = HeldColumn(l1 * np.array([[0.6], [1.0], [1.6]]))
    assert _number(_run("adaptive_length", m, fields)["eps=0.1;stat=spearman"]) == pytest.approx(1)
    assert area(np.array([4]), np.array([[7.0]])).tolist() == [7.0]
    assert first_above(budgets, np.array([[0.0, 1, 2, 3]]), np.array([9.0])).tolist() == [math.inf]


# ------------------------------------------------------------------------------------------------ meaning


def test_geometry_of_copies_and_circles() -> None:
    pytest.importorskip("ripser")
    pytest.importorskip("ot")
    from vtbench.tokens import geometry

    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 5))
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    copy = 3 * a @ turn + 1
    assert geometry.procrustes_residual(a, copy) == pytest.approx(0, abs=1e-12)
    assert geometry.hausdorff(a, copy) == pytest.approx(0, abs=1e-6)
    assert geometry.gromov_wasserstein(a, copy) == pytest.approx(0, abs=1e-9)
    assert geometry.procrustes_residual(a, rng.normal(size=(40, 5))) > 0.7
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    _, loops = geometry.persistence(np.stack([np.cos(turns), np.sin(turns)], axis=1))
    assert (loops > 0.3).sum() == 1


def test_procrustes_equals_scipy() -> None:
    from scipy.spatial import procrustes

    from vtbench.tokens import geometry

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    assert geometry.procrustes_residual(a, b) == pytest.approx(procrustes(a, b)[2], rel=1e-9)


def test_a_codebook_laid_out_as_its_codes_keep_company_is_told_from_a_shuffled_one() -> None:
    rng = np.random.default_rng(0)
    # Codes on a circle; neighbours in a sequence are neighbours on the circle.
    steps = rng.integers(-1, 2, (800, 64)).cumsum(axis=1) + rng.integers(0, 24, (800, 1))
    ids = (steps % 24).astype(np.int32)
    angle = 2 * np.pi * np.arange(24) / 24
    book = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    fields = _fields("token-semantics")
    m = _measurements(
        ids, Stream("tokens", "index", "seq1d", (24,), (64,)), codebook=HeldColumn(book, np.zeros(24, np.int64))
    )
    pytest.importorskip("ripser")
    homology = _run("codebook_homology", m, fields)
    assert homology["dim=1"].notes["longest"][0] > 0.3
    assert _run("procrustes_residual", _measurements(ids, _grid(24)), fields)["all"].status == "skipped"
    found = _run("procrustes_residual", m, fields)
    assert _number(found["all"]) <= _number(found["null=shuffled"]) + 1e-9


def test_probes_find_labels_that_the_tokens_carry_and_name_their_tap() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(80) % 4
    ids = (rng.integers(0, 8, (80, 64)) + 8 * label[:, None]).astype(np.int32)
    book = rng.normal(size=(32, 6))
    m = _measurements(ids, _grid(32), label=label, codebook=HeldColumn(book, np.zeros(32, np.int64)))
    fields = _fields("token-semantics")
    for name in ("knn_accuracy", "linear_accuracy"):
        found = _run(name, m, fields)
        assert set(found) == {"tap=hidden", "tap=pre_quant", "tap=token_id", "tap=post_quant"}
        assert "no features at the tap hidden" in found["tap=hidden"].why
        assert _number(found["tap=token_id"]) == 100
        assert found["tap=post_quant"].notes["tap"] == "post_quant"
    noise = _measurements(rng.integers(0, 32, (400, 64)).astype(np.int32), _grid(32), label=np.arange(400) % 4)
    assert _number(_run("knn_accuracy", noise, fields)["tap=token_id"]) == pytest.approx(25, abs=12)
    assert _run("knn_accuracy", noise, fields)["tap=post_quant"].status == "skipped"
    alone = _measurements(ids[:4], _grid(32), label=label[:4])
    assert "single image" in _run("linear_accuracy", alone, fields)["tap=token_id"].why


def test_probes_read_the_encoders_features_also_of_continuous_tokens() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(80) % 4
    told = rng.normal(size=(80, 12)) + 8 * np.eye(12)[label]
    more = {"hidden": HeldColumn(told.astype(np.float32)), "pre_quant": HeldColumn(np.zeros((80, 0), np.float32))}
    continuous = Stream("latents", "continuous", "grid2d", shape=(8, 8))
    m = _measurements(np.zeros((80, 0), np.int32), continuous, label=label, **more)
    for name in ("knn_accuracy", "linear_accuracy"):
        found = _run(name, m, _fields("token-semantics"))
        assert _number(found["tap=hidden"]) == 100 and found["tap=hidden"].notes["tap"] == "hidden"
        assert found["tap=pre_quant"].status == "skipped"
        assert "continuous" in found["tap=token_id"].why


def test_zero_shot_accuracy_is_the_share_of_images_nearest_to_their_own_words() -> None:
    words = np.eye(3, 5, dtype=np.float32)
    own = np.arange(30) % 3
    image = words[own] + 0.1
    image[:6] = words[(own[:6] + 1) % 3]
    captions = np.array(["cat", "dog", "axolotl"])[own]
    fields = _fields("token-semantics")

    def measured(image: np.ndarray, captions: np.ndarray) -> Value:
        more = {"aligned": HeldColumn(image), "text": HeldColumn(words[own]), "caption": HeldColumn(captions)}
        return _run("zero_shot_accuracy", _measurements(np.zeros((30, 1), np.int32), _grid(4), **more), fields)[
            "tap=aligned"
        ]

    found = measured(image, captions)
    assert _number(found) == pytest.approx(80) and found.notes["classes"] == 3
    unnamed = captions.copy()
    unnamed[:3] = ""
    assert _number(measured(image, unnamed)) == pytest.approx(100 * 24 / 27)
    assert "no two captions" in measured(image, np.full(30, "")).why
    assert "not align" in measured(np.zeros((30, 0), np.float32), captions).why


def test_part_information_is_the_entropy_of_parts_that_tokens_give_away() -> None:
    rng = np.random.default_rng(0)
    parts = rng.integers(0, 4, (300, 64))
    ids = (parts * 4 + rng.integers(0, 4, (300, 64))).astype(np.int32)
    fields = _fields("token-semantics")
    found = _run("part_information", _measurements(ids, _grid(16), parts=HeldColumn(parts)), fields)
    assert _number(found["all"]) == pytest.approx(2, abs=0.01)
    other = rng.integers(0, 16, (300, 64)).astype(np.int32)
    found = _run("part_information", _measurements(other, _grid(16), parts=HeldColumn(parts)), fields)
    assert _number(found["all"]) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    "name", ["token-statistics", "token-models", "token-robustness", "token-semantics", "token-pfid"]
)
def test_the_protocols_of_a_suite_have_the_fields_that_its_metrics_read(name: str) -> None:
    suite = load_suite(name)
    for entry in suite.metrics:
        metric = registry.metric(entry.name)
        for protocol in entry.protocols:
            fields = suite.protocols[protocol].fields(256)
            assert [f for f in metric.fields if f not in fields] == []
            assert metric.needs(fields)


def test_metrics_of_tokens_import_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from vtbench import registry; registry.metric('zipf_exponent'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "False"
