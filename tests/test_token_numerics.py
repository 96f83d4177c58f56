"""Estimators over counts, against closed forms and independent libraries; the biases that they exist to avoid."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest

from vtbench.errors import BadData, UsageError
from vtbench.tokens import counts, dependence, entropy, growth, kneser_ney, laws, packing, zipf
from vtbench.tokens.scans import scan_order, scans_of

K = 4096


def _groups(images: int, number: int = 50) -> np.ndarray:
    return np.arange(images) % min(number, images)


def _counted(ids: np.ndarray, size: int, number: int = 50) -> counts.Counts:
    return counts.count([(np.arange(len(ids)), ids)], size, _groups(len(ids), number))


def _zipf_counts(s: float, n: int, size: int = 16384, q: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = (np.arange(1, size + 1) + q) ** -s
    p = rng.permutation(p / p.sum())
    return np.stack([rng.multinomial(n // 50, p) for _ in range(50)])


def _clustered(images: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Images that draw all of their 256 tokens from 60 symbols of their own, these being uniform over the codebook."""
    own = rng.integers(0, size, (images, 60))
    return own[np.arange(images)[:, None], rng.integers(0, 60, (images, 256))].astype(np.int32)


# ------------------------------------------------------------------------------------------------ scans and counting


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (4, 8)])
def test_every_scan_visits_every_position_and_hilbert_never_jumps_in_a_square(shape: tuple[int, int]) -> None:
    for scan in ("raster", "column", "snake", "hilbert"):
        order = scan_order(shape, scan)
        assert sorted(order) == list(range(shape[0] * shape[1]))
        rows, columns = np.divmod(order, shape[1])
        steps = abs(np.diff(rows)) + abs(np.diff(columns))
        if scan == "snake" or (scan == "hilbert" and shape[0] == shape[1]):
            assert steps.max() == 1


def test_column_scan_is_the_transposed_raster_and_1d_has_only_its_native_order() -> None:
    ids = np.arange(6).reshape(2, 3)
    assert ids.ravel()[scan_order((2, 3), "column")].tolist() == ids.T.ravel().tolist()
    assert scans_of((16,)) == ("native",)
    assert scans_of((4, 4)) == ("raster", "column", "snake", "hilbert")
    with pytest.raises(UsageError, match="native"):
        scan_order((16,), "hilbert")


def test_counts_per_group_equal_a_loop_and_do_not_depend_on_the_blocks() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(-1, 7, (60, 9)).astype(np.int32)
    groups = rng.integers(0, 5, 60)
    whole = counts.count([(np.arange(60), ids)], 7, groups)
    split = counts.count([(np.arange(s, s + 13)[: 60 - s], ids[s : s + 13]) for s in range(0, 60, 13)], 7, groups)
    for g in range(5):
        for k in range(7):
            mine = ids[groups == g]
            assert whole.tokens[g, k] == (mine == k).sum()
            assert whole.images[g, k] == (mine == k).any(axis=1).sum()
    assert (whole.tokens == split.tokens).all()
    assert (whole.images == split.images).all()
    assert whole.n == (ids >= 0).sum()


@pytest.mark.parametrize("size", [11, 1 << 18])
@pytest.mark.parametrize("order", [2, 4])
def test_ngrams_equal_a_dictionary_also_where_keys_are_mixed(size: int, order: int) -> None:
    rng = np.random.default_rng(1)
    ids = (rng.integers(0, 4, (30, 12)) * (size // 4)).astype(np.int32)
    ids[3, 8:] = -1
    groups = np.arange(30) % 6
    found = counts.grams(counts.sequence_windows(ids, order), size, groups)
    told: dict[tuple[int, ...], int] = {}
    for row in ids:
        for i in range(12 - order + 1):
            gram = tuple(row[i : i + order])
            if min(gram) >= 0:
                told[gram] = told.get(gram, 0) + 1
    assert sorted(found.totals.tolist()) == sorted(told.values())
    assert (found.n, found.types) == (sum(told.values()), len(told))
    a, b = found.halves()
    assert (a + b == found.totals).all()
    assert (
        a.sum() == counts.grams(counts.sequence_windows(ids[groups % 2 == 0], order), size, groups[groups % 2 == 0]).n
    )


def test_patches_are_the_overlapping_two_by_two_windows() -> None:
    ids = np.arange(12, dtype=np.int32)[None]
    windows = np.stack(counts.patch_windows(ids, (3, 4)), axis=-1)[0]
    assert windows[0].tolist() == [0, 1, 4, 5]
    assert len(windows) == 2 * 3


# ------------------------------------------------------------------------------------------------ Zipf


def test_split_zipf_fit_finds_the_truth_where_least_squares_and_powerlaw_do_not() -> None:
    tokens = _zipf_counts(0.3, 10_000_000)
    found = zipf.fit_counts(tokens, 16384)
    assert found.s == pytest.approx(0.3, abs=0.01)
    assert found.groups is not None
    uniform = _zipf_counts(0.0, 100_000)
    assert zipf.fit_counts(uniform, 16384, intervals=False).s == pytest.approx(0.0, abs=0.03)
    assert zipf.ols_exponent(uniform.sum(axis=0)) == pytest.approx(0.37, abs=0.02)


def test_split_zipf_fit_recovers_s_and_q() -> None:
    found = zipf.fit_counts(_zipf_counts(1.2, 3_000_000, 4096, q=20), 4096, intervals=False)
    assert found.s == pytest.approx(1.2, abs=0.02)
    assert found.q == pytest.approx(20, abs=1.5)


def test_ranks_from_other_images_are_not_fooled_by_clustering() -> None:
    ids = _clustered(600, K, np.random.default_rng(3))
    counted = _counted(ids, K)
    assert zipf.fit_counts(counted.tokens, K, intervals=False).s == pytest.approx(0.0, abs=0.03)
    assert zipf.ols_exponent(counted.total) > 0.15


def test_leave_one_out_values_are_fits_of_the_rest() -> None:
    tokens = _zipf_counts(0.8, 200_000, 512)
    found = zipf.fit_counts(tokens, 512)
    rest = tokens.copy()
    rest[7] = 0
    assert found.groups is not None
    assert found.groups[7] == pytest.approx(zipf.fit_counts(rest, 512, intervals=False).s, abs=1e-4)


def test_partition_function_equals_the_sum() -> None:
    for s, q, size in [(1.3, 2.5, 100_000), (1.0, 0.0, 100_000), (0.0, 0.0, 5000), (-0.2, 3.0, 5000), (2.0, 50.0, 40)]:
        told = math.log(((np.arange(1, size + 1) + q) ** -s).sum())
        assert zipf.log_partition(s, q, size) == pytest.approx(told, rel=1e-10)


def test_ngram_exponent_equals_the_dense_fit_with_its_leave_one_out_values() -> None:
    rng = np.random.default_rng(5)
    p = np.arange(1, 41) ** -1.0
    ids = rng.choice(40, (300, 20), p=p / p.sum()).astype(np.int32)
    groups = _groups(300, 10)
    grams = counts.grams(counts.sequence_windows(ids, 2), 40, groups)
    pairs = ids[:, :-1] * 40 + ids[:, 1:]
    dense = counts.count([(np.arange(300), pairs)], 1600, groups)
    sparse = laws.exponent(grams, 1600, intervals=True)
    told = zipf.fit_counts(dense.tokens, 1600)
    assert sparse.s == pytest.approx(told.s, abs=1e-6)
    assert sparse.groups is not None
    assert told.groups is not None
    np.testing.assert_allclose(sparse.groups, told.groups, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_powerlaw_stops_at_three_without_the_range_and_the_metric_lifts_it() -> None:
    powerlaw = pytest.importorskip("powerlaw")
    from vtbench.metrics.zipf import _powerlaw

    # Counts with P(x) ~ x^-4.3, drawn through the zeta distribution.
    values = np.random.default_rng(0).zipf(4.333, 4000)
    capped = powerlaw.Fit(values, discrete=True, verbose=False).alpha
    assert capped <= 3.0 + 1e-6
    assert _powerlaw(values)["alpha"] == pytest.approx(4.333, abs=0.25)


def test_benford_is_met_by_powers_of_two_and_not_by_equal_counts() -> None:
    assert zipf.benford(2 ** np.arange(50))[0] < 0.03
    assert zipf.benford(np.full(1000, 512))[0] > 0.15
    assert zipf.benford(np.full(1000, 512))[1] > 0.5


def test_yule_simon_recovers_rho() -> None:
    rng = np.random.default_rng(0)
    draws = np.ceil(np.log(rng.random(20000)) / np.log(1 - np.exp(-rng.exponential(1 / 2.0, 20000))))
    assert zipf.yule_simon(draws.astype(np.int64)) == pytest.approx(2.0, rel=0.05)


# ------------------------------------------------------------------------------------------------ entropy


def test_only_the_jackknife_over_images_survives_clustered_tokens() -> None:
    rng = np.random.default_rng(0)
    ids = _clustered(1000, 16384, rng)
    counted = _counted(ids, 16384)
    truth = math.log2(16384)
    plain = entropy.plugin(counted.total)
    corrected = entropy.jackknifed(plain, entropy.without_each(counted))
    assert plain - truth < -0.12
    assert entropy.miller_madow(counted.total) - truth < -0.08
    assert entropy.chao_wang_jost(counted.total) - truth < -0.08
    assert abs(corrected - truth) < 0.03


def test_dead_codes_do_not_move_miller_madow() -> None:
    live = np.random.default_rng(0).multinomial(2000, np.full(256, 1 / 256))
    padded = np.concatenate([live, np.zeros(16384 - 256, int)])
    assert entropy.miller_madow(padded) == entropy.miller_madow(live)
    assert entropy.miller_madow(padded) == pytest.approx(8, abs=0.05)
    # With the nominal K in the correction the error would be several bits.
    assert entropy.plugin(padded) + (16384 - 1) / (2 * 2000 * math.log(2)) > 13


def test_chao_wang_jost_equals_its_formula_and_is_close_for_independent_draws() -> None:
    from scipy.special import digamma

    rng = np.random.default_rng(2)
    c = rng.multinomial(300, rng.dirichlet(np.ones(200)))
    seen = c[c > 0]
    n, f1, f2 = seen.sum(), (seen == 1).sum(), (seen == 2).sum()
    a = 2 * f2 / ((n - 1) * f1 + 2 * f2)
    r = np.arange(1, n)
    told = (seen / n * (digamma(n) - digamma(seen))).sum()
    told += f1 / n * (1 - a) ** (1.0 - n) * (-math.log(a) - ((1 - a) ** r / r).sum())
    assert entropy.chao_wang_jost(c) == pytest.approx(told / math.log(2), rel=1e-9)
    p = rng.dirichlet(np.ones(500))
    mean = np.mean([entropy.chao_wang_jost(rng.multinomial(1000, p)) for _ in range(20)])
    assert mean == pytest.approx(-(p * np.log2(p)).sum(), abs=0.05)
    assert np.mean([entropy.plugin(rng.multinomial(1000, p)) for _ in range(20)]) < mean - 0.2


def test_entropy_of_ngrams_without_a_group_is_that_of_the_rest() -> None:
    rng = np.random.default_rng(6)
    ids = rng.integers(0, 9, (40, 10)).astype(np.int32)
    groups = _groups(40, 5)
    value, left = entropy.of_grams(counts.grams(counts.sequence_windows(ids, 2), 9, groups))
    rest = counts.grams(counts.sequence_windows(ids[groups != 2], 2), 9, groups[groups != 2])
    assert left[2] == pytest.approx(entropy.plugin(rest.totals), abs=1e-12)
    assert value == pytest.approx(entropy.plugin(np.bincount((ids[:, :-1] * 9 + ids[:, 1:]).ravel())), abs=1e-12)


def test_huffman_reaches_the_entropy_of_a_dyadic_law_and_equals_the_textbook() -> None:
    assert entropy.huffman_bits(np.array([400, 200, 100, 100])) == 1.75
    assert entropy.huffman_bits(np.array([5])) == 1.0
    c = np.random.default_rng(0).multinomial(30000, np.random.default_rng(1).dirichlet(np.ones(2000)))
    heap = list(c[c > 0])
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    assert entropy.huffman_bits(c) == pytest.approx(total / c.sum(), rel=1e-12)


def test_chao1_and_good_turing() -> None:
    rng = np.random.default_rng(0)
    c = rng.multinomial(3000, np.concatenate([np.full(2000, 1 / 2000), np.zeros(14384)]))
    assert entropy.chao1(c) == pytest.approx(2000, rel=0.05)
    unseen = (c[:2000] == 0).sum() / 2000
    assert entropy.unseen_mass(c) == pytest.approx(unseen, abs=0.02)
    assert entropy.uniform_seen(16384, 10**5) == pytest.approx(16384 * (1 - (1 - 1 / 16384) ** 1e5), rel=1e-9)


def test_a_rolling_buffer_bounds_usage_as_the_formula_says() -> None:
    assert entropy.uniform_seen(262144, 65536) / 262144 == pytest.approx(0.221, abs=0.001)


# ------------------------------------------------------------------------------------------------ growth


def test_rarefaction_equals_the_mean_over_orders_of_the_images() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (12, 6))
    occupied = np.array([(ids == k).any(axis=1).sum() for k in range(50)])
    found = growth.rarefied(occupied, 12, np.array([1, 5, 12]))
    told = np.mean([[len(np.unique(rng.permutation(ids)[:m])) for m in (1, 5, 12)] for _ in range(3000)], axis=0)
    np.testing.assert_allclose(found.seen, told, rtol=0.01)
    assert found.seen[-1] == len(np.unique(ids))


def test_the_uniform_law_has_no_single_heaps_exponent() -> None:
    flat = growth.uniform(16384, np.array([1e2, 1e4, 1e5]))
    np.testing.assert_allclose(flat.seen, 16384 * (1 - (1 - 1 / 16384) ** flat.at), rtol=1e-9)
    assert flat.slope[0] > 0.99
    assert flat.slope[2] < 0.02


# ------------------------------------------------------------------------------------------------ dependence


def test_mutual_information_of_independent_pairs_is_zero_and_the_plug_in_at_full_size_is_pure_bias() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 16, 20000), rng.integers(0, 16, 20000)
    assert dependence.mutual_information(x, y, 16) == pytest.approx(0, abs=0.002)
    x, y = rng.integers(0, 16384, 50000), rng.integers(0, 16384, 50000)
    table = np.unique(x * 16384 + y, return_counts=True)[1]
    plain = entropy.plugin(np.bincount(x)) + entropy.plugin(np.bincount(y)) - entropy.plugin(table)
    assert plain == pytest.approx(11.9, abs=0.1)
    assert dependence.classes_that_fit(16384, 50000, 256) == 70


def test_mutual_information_equals_dit() -> None:
    dit = pytest.importorskip("dit")
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(16)).reshape(4, 4)
    told = dit.shannon.mutual_information(
        dit.Distribution([f"{i}{j}" for i in range(4) for j in range(4)], p.ravel().tolist()), [0], [1]
    )
    drawn = rng.choice(16, 400_000, p=p.ravel())
    assert dependence.mutual_information(drawn // 4, drawn % 4, 4) == pytest.approx(told, abs=0.005)


def test_kmeans_finds_separate_clusters_and_is_deterministic() -> None:
    rng = np.random.default_rng(0)
    book = np.repeat(rng.normal(0, 10, (4, 3)), 20, axis=0) + rng.normal(0, 0.01, (80, 3))
    found = dependence.clusters(book, 4, seed=0)
    assert (found == dependence.clusters(book, 4, seed=0)).all()
    for start in range(0, 80, 20):
        assert len(set(found[start : start + 20])) == 1


# ------------------------------------------------------------------------------------------------ language models


def _markov(images: int, length: int, size: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """Sequences of a first-order chain and its entropy rate in bits."""
    rng = np.random.default_rng(seed)
    step = rng.dirichlet(np.full(size, 0.3), size)
    start = np.linalg.matrix_power(step, 200)[0]
    rate = -(start[:, None] * step * np.log2(step + 1e-300)).sum()
    ids = np.empty((images, length), np.int32)
    ids[:, 0] = rng.choice(size, images, p=start)
    edges = step.cumsum(axis=1)
    for t in range(1, length):
        ids[:, t] = (rng.random(images)[:, None] > edges[ids[:, t - 1]]).sum(axis=1).clip(0, size - 1)
    return ids, float(rate)


def test_kneser_ney_reaches_the_rate_of_a_markov_chain_and_never_beats_it() -> None:
    ids, rate = _markov(2000, 64, 32)
    bits = {n: kneser_ney.held_out(ids, 32, n, 10**7).per_position[1:].mean() for n in (1, 2, 3)}
    assert rate - 0.02 < bits[2] < rate + 0.05
    assert bits[1] > rate + 0.5
    assert bits[2] < bits[3] < rate + 0.2


def test_kneser_ney_probabilities_add_up_to_one() -> None:
    ids, _ = _markov(200, 10, 8)
    model = kneser_ney.train(ids, 9, 3)  # symbol 8 never occurs
    total = sum(
        2.0 ** model.log2_probability(np.concatenate([ids[:5, :4], np.full((5, 1), w, np.int32)], axis=1))[:, -1]
        for w in range(9)
    )
    np.testing.assert_allclose(total, 1.0, atol=1e-12)


def test_kneser_ney_equals_nltk() -> None:
    pytest.importorskip("nltk")
    from nltk.lm import KneserNeyInterpolated
    from nltk.lm.preprocessing import padded_everygram_pipeline

    ids, _ = _markov(60, 10, 12)
    learn, test = ids[:40], ids[40:45]
    grams, words = padded_everygram_pipeline(2, [[str(i) for i in row] for row in learn])
    told = KneserNeyInterpolated(2, discount=0.5)
    told.fit([list(g) for g in grams], list(words))
    # nltk closes every sentence with an end symbol, which is an event of its own, and does not mix its unigrams with 1/K.
    closed = np.concatenate([learn, np.full((40, 1), 12, np.int32)], axis=1)
    mine = kneser_ney.train(closed, 13, 2, discounts=[(0, 0, 0), (0.5, 0.5, 0.5)])
    for row, found in zip(test, 2.0 ** mine.log2_probability(test)):
        context = ["<s>", *(str(i) for i in row)]
        np.testing.assert_allclose(found, [told.score(context[i + 1], (context[i],)) for i in range(10)], rtol=1e-9)


def test_a_kneser_ney_order_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadData, match="Order 3 does"):
        kneser_ney.train(np.zeros((2, 5), np.int32), 1 << 18, 4)


def test_the_transformer_learns_a_markov_chain_and_leaves_the_random_state_alone() -> None:
    torch = pytest.importorskip("torch")
    from vtbench.tokens import transformer

    ids, rate = _markov(400, 32, 8, seed=1)
    state = torch.random.get_rng_state()
    budget = transformer.Budget(tokens=50_000, width=16, layers=1, heads=2, batch=512, rate=2e-2)
    found = transformer.held_out(ids, 8, budget, device="cpu")
    again = transformer.held_out(ids, 8, budget, device="cpu")
    assert torch.equal(state, torch.random.get_rng_state())
    assert (found.per_token == again.per_token).all()
    assert rate - 0.05 < found.per_position[1:].mean() < rate + 0.1
    assert found.per_position.mean() < math.log2(8) - 0.5


# ------------------------------------------------------------------------------------------------ compression


def test_layouts_are_lossless_and_compressors_near_the_entropy_of_independent_tokens() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1024, 20000).astype(np.int32)
    parts = packing.layouts(ids, 1024)
    assert np.frombuffer(parts["u16"], "<u2").tolist() == ids.tolist()
    split = np.frombuffer(parts["split"], np.uint8).reshape(2, -1).astype(int)
    assert (split[0] + 256 * split[1]).tolist() == ids.tolist()
    bits = np.unpackbits(np.frombuffer(parts["bits"], np.uint8))[: 10 * len(ids)].reshape(-1, 10)
    assert (bits @ (1 << np.arange(9, -1, -1))).tolist() == ids.tolist()
    best = min(packing.compressed_bits(ids, 1024).values())
    assert 10.0 <= best < 10.05
    assert packing.adaptive_bits(np.bincount(ids, minlength=1024)) == pytest.approx(10, abs=0.3)


def test_adaptive_code_length_is_the_sequential_one() -> None:
    ids = np.random.default_rng(0).integers(0, 3, 50)
    seen = np.full(3, 0.5)
    told = 0.0
    for i in ids:
        told -= math.log2(seen[i] / seen.sum())
        seen[i] += 1
    assert packing.adaptive_bits(np.bincount(ids, minlength=3)) == pytest.approx(told / 50, rel=1e-12)


def test_byte_pair_merges_save_little_on_independent_tokens_and_much_on_repeated_ones() -> None:
    pytest.importorskip("tokenizers")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2000, (80, 128))
    assert packing.bpe_tokens(ids[::2], ids[1::2], 2000, [64])[0] > 0.97
    paired = np.repeat(rng.integers(0, 20, (80, 64)), 2, axis=1)
    assert packing.bpe_tokens(paired[::2], paired[1::2], 20, [64])[0] < 0.55
    # Ids around the surrogates of Unicode are characters like any other.
    high = rng.integers(0xD600, 0xD900, (10, 8))
    assert packing.bpe_tokens(high, high, 1 << 16, [1])[0] <= 1
