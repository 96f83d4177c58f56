"""The published numbers that the package carries: facts with sources, in the tidy columns, consistent with themselves."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest

from vtbench import table

NAMES = ("reconstruction", "tokbench", "generation", "geneval")


@pytest.fixture(scope="module")
def published():
    return {name: table.published([name]) for name in NAMES}


def test_every_row_has_a_source_a_protocol_and_a_plausible_value(published):
    assert {name: len(rows) for name, rows in published.items()} == {
        "reconstruction": 155,
        "tokbench": 840,
        "generation": 182,
        "geneval": 178,
    }
    for row in table.published():
        assert row["status"] == "published"
        assert row["source"]
        assert row["protocol"]
        assert row["model"]
        assert row["run_id"] == ""
        assert math.isfinite(row["value"]) or row["metric"] == "codebook_size"
        limit = {
            "ssim": 1,
            "lpips": 1,
            "f_sim": 1,
            "precision": 1,
            "recall": 1,
            "geneval": 1,
            "t_acc": 100,
            "t_ned": 100,
        }
        assert 0 <= row["value"] <= limit.get(row["metric"], math.inf), row


def test_rows_are_unique_by_key_and_source(published):
    for rows in published.values():
        keys = [(r["model"], r["dataset"], *(r[k] for k in table.KEY), r["source"], r["value"]) for r in rows]
        assert len(set(keys)) == len(keys)


def test_tokbench_means_are_the_means_of_their_bins(published):
    """Unweighted means of three rounded bins, themselves rounded: within one unit of the last printed digit."""
    cells = defaultdict(dict)
    for row in published["tokbench"]:
        cells[row["suite"], row["resolution"], row["model"], row["params"], row["metric"]][row["slice"]] = row["value"]
    assert len(cells) == 70 * 3
    for key, bins in cells.items():
        mean = (bins["small"] + bins["medium"] + bins["large"]) / 3
        assert bins["mean"] == pytest.approx(mean, abs=0.0101), key
        if key[4] == "t_acc":
            assert bins["small"] <= bins["medium"] <= bins["large"], key


def test_geneval_overall_is_the_mean_of_its_tags_and_the_printed_one_agrees(published):
    tags, overall = defaultdict(list), defaultdict(dict)
    for row in published["geneval"]:
        if row["slice"].startswith("tag="):
            tags[row["model"]].append(row["value"])
        else:
            overall[row["model"]][row["source"].rsplit(" ", 1)[1]] = row["value"]
    assert len(tags) == 22
    for model, values in tags.items():
        assert len(values) == 6
        assert overall[model]["tags"] == pytest.approx(sum(values) / 6, abs=6e-5)
        assert overall[model]["printed"] == pytest.approx(overall[model]["tags"], abs=0.0101), model


def test_bits_per_pixel_follow_from_tokens_and_codebook(published):
    rows = published["reconstruction"]
    sizes = {r["model"]: r["value"] for r in rows if r["metric"] == "codebook_size" and r["slice"] == "all"}
    checked = 0
    for row in rows:
        if row["bpp"] is not None and row["model"] in sizes:
            bits = row["tokens"] * math.log2(sizes[row["model"]])
            per_token = 1 if not row["model"].startswith("UniTok") else 8
            assert row["bpp"] == pytest.approx(per_token * bits / row["resolution"] ** 2)
            checked += 1
    assert checked > 60


def test_sources_that_disagree_stand_side_by_side(published):
    values = [
        r["value"] for r in published["reconstruction"] if r["model"] == "LlamaGen-VQ-ds16" and r["metric"] == "fid"
    ]
    assert sorted(values) == [2.11, 2.19, 4.28]
