"""Leaderboards and paper tables: ranks only among comparable rows, and text that stays text in every format."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest
from records_for_tests import make

from vtbench import table
from vtbench.comparable import entries, published_entries
from vtbench.errors import UnknownName
from vtbench.report import leaderboard, paper, sheet
from vtbench.report.model_card import model_card

EVIL = '=cmd|" /C calc"!A0 <script>alert(1)</script> \\input{x} 100% a_b & $x$ | # ~^{}'


def ranks(boards, metric, piece="all"):
    (board,) = [b for b in boards if b.head.row.metric == metric and b.head.row.slice == piece]
    return {(e.record.model.name if e.record else e.model): rank for e, rank in zip(board.entries, board.ranks)}


def test_ranks_follow_the_direction_and_ties_share_one(tmp_path):
    records = [
        make(None, "worst", quality=-3),
        make(None, "best", quality=3, seed=1),
        make(None, "twin", quality=3, seed=2),
    ]
    boards = leaderboard.boards(entries(records))
    assert ranks(boards, "psnr") == {"best": 1, "twin": 1, "worst": 3}
    assert ranks(boards, "lpips") == {"best": 1, "twin": 1, "worst": 3}
    assert not [b for b in boards if b.head.row.metric in ("entropy", "inception_score")]


def test_limited_runs_subsets_and_other_data_are_not_ranked_together():
    whole = make(None, "whole", dataset="imagenet-val")
    limited = make(None, "limited", dataset="imagenet-val", status="limited", quality=5)
    folder = make(None, "folder", dataset="folder:val", quality=5)
    other = whole.model_copy(update={"dataset": whole.dataset.model_copy(update={"revision": "sha256:5k"})})
    boards = [b for b in leaderboard.boards(entries([whole, limited, folder, other])) if b.head.row.metric == "psnr"]
    assert [sorted(e.model for e in b.entries) for b in boards] == [["whole"], ["whole"], ["folder"]]
    assert [(e.model, why) for e, why in boards[0].left_out] == [("limited", "a limited run")]


def test_published_rows_rank_only_under_a_stated_protocol():
    published = published_entries(table.published(["tokbench", "reconstruction"]))
    boards = leaderboard.boards(published)
    assert {b.head.row.protocol for b in boards} == {"tokbench", "adm"}
    small = next(
        b for b in boards if (b.head.row.metric, b.head.row.slice, b.head.row.resolution) == ("t_acc", "mean", 256)
    )
    assert [e.model for e in small.entries][:2] == ["Resize", "FLUX.1-dev:factor=8,type=C"]


def test_a_later_run_of_the_same_model_replaces_the_earlier():
    old = make(None, "m", seed=1)
    new = old.model_copy(update={"run_id": "ffffffffffff", "started": "2030-01-01"})
    (board,) = [b for b in leaderboard.boards(entries([new, old])) if b.head.row.metric == "psnr"]
    assert [e.record.run_id for e in board.entries] == ["ffffffffffff"]


def test_a_run_of_more_operating_points_repeats_no_model():
    old = make(None, "m", tokens=(256,), seed=1)
    more = {"run_id": "ffffffffffff", "started": "2030-01-01", "options": {**old.options, "tokens": [64, 256]}}
    rival = make(None, "better", tokens=(256,), quality=5, seed=2)
    both = [old, old.model_copy(update=more), rival, rival.model_copy(update={**more, "run_id": "eeeeeeeeeeee"})]
    assert ranks(leaderboard.boards(entries(both)), "psnr") == {"better": 1, "m": 2}


def test_budgets_are_ranked_together_in_what_counts_tokens():
    record = make(None, "m", tokens=(64, 256))
    base = next(r for r in record.rows if r.metric == "fid")
    rows = [
        base.model_copy(update={"metric": "codebook_perplexity", "tokens": t, "n": 60 * t, "notes": {"N": 60 * t}})
        for t in (64, 256)
    ]
    (board,) = leaderboard.boards(entries([record.model_copy(update={"rows": rows})]))
    assert len(board.entries) == 2
    rows = [r.model_copy(update={"notes": {}, "n": n}) for n, r in enumerate(rows, 60)]
    assert len(leaderboard.boards(entries([record.model_copy(update={"rows": rows})]))) == 2


def test_a_row_that_was_skipped_makes_no_line_of_its_own():
    record = make(None, "m", tokens=(256,))
    lost = next(r for r in record.rows if r.metric == "psnr")
    lost = lost.model_copy(update={"tokens": None, "status": "skipped", "value": None, "why": "no weights"})
    assert len(paper.subjects([record.model_copy(update={"rows": [*record.rows, lost]})], [])) == len(
        paper.subjects([record], [])
    )


def test_the_frontier_holds_what_nothing_beats_at_as_few_bits():
    records = [make(None, "tiny", tokens=(64, 256)), make(None, "heavy", tokens=(256,), bpp=1.0, quality=-1, seed=2)]
    flat = leaderboard.lines(leaderboard.boards(entries(records)))
    psnr = {(row["model"], row["tokens"]): row["pareto"] for row in flat if row["metric"] == "psnr"}
    assert psnr == {("tiny", 64): True, ("tiny", 256): True, ("heavy", 256): False}
    only = leaderboard.lines(leaderboard.boards(entries(records)), pareto=True)
    assert [row["bpp"] for row in only if row["metric"] == "psnr"] == [0.01, 0.04]


def test_the_leaderboards_csv_opens_in_pandas_and_duckdb(tmp_path):
    pandas = pytest.importorskip("pandas")
    flat = leaderboard.lines(leaderboard.boards(entries([make(None, EVIL), make(None, "b", seed=1)])))
    path = tmp_path / "board.csv"
    path.write_text(leaderboard.csv(flat))
    frame = pandas.read_csv(path)
    assert tuple(frame.columns) == leaderboard.COLUMNS
    assert frame["rank"].dtype.kind == "i"
    assert frame["value"].dtype == float
    assert len(frame) == len(flat)
    assert frame["model"].str.startswith("'=").any()
    duckdb = pytest.importorskip("duckdb")
    kinds = dict(duckdb.sql(f"select column_name, column_type from (describe select * from '{path}')").fetchall())
    assert kinds["value"] == "DOUBLE"


def test_hostile_names_stay_text_in_every_format():
    records = [make(None, EVIL), make(None, "b", seed=1)]
    made, _ = paper.sheet(paper.subjects(records, []), [paper.Column.of(c) for c in ("tokens", "psnr", "fid")])
    for page in (
        sheet.html_page([made], EVIL),
        sheet.html_page(leaderboard.sheets(leaderboard.boards(entries(records))), "x"),
    ):
        assert "<script" not in page
        assert "&lt;script" in page
    assert "<script" not in sheet.markdown(made)
    rows = [line for line in sheet.markdown(made).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    text = sheet.latex(made)
    assert "\\input" not in text
    line = next(line for line in text.splitlines() if "calc" in line)
    assert line.replace("\\&", "").count("&") == 3
    assert "100\\%" in line
    first = sheet.csv(made).splitlines()[1]
    assert "\"'=cmd" in first
    yaml = pytest.importorskip("yaml")
    front = yaml.safe_load(model_card(records).strip("-\n"))
    assert front["model-index"][0]["name"] == EVIL
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == records[0].rows[0].value


CARD = {"kind": "index", "codebook": [1024], "parameters": 3.2, "trained_on": "photographs", "bibtex": "@misc{mine}"}


def test_a_paper_table_marks_best_and_second_and_says_how():
    records = [
        make(None, "good", quality=4, card={**CARD, "in_domain": ["demo"]}),
        make(None, "fair", quality=0, seed=1, card=CARD),
        make(None, "poor", quality=-4, seed=2, card={**CARD, "kind": "continuous", "codebook": []}),
    ]
    lines = paper.pick_published(table.published(["reconstruction"]), ["llamagen-vq-ds16", "titok-l"])
    found = paper.subjects(records, lines)
    made, bib = paper.sheet(
        found, [paper.Column.of(c) for c in ("tokens", "codebook", "bpp", "params", "psnr", "fid", "fid@clean")]
    )
    by_model = {line[0].text: line for line in made.lines()}
    assert [by_model[m][5].mark for m in ("good", "fair", "poor")] == ["best", "second", ""]
    assert [s.title for s in made.sections] == [
        "Discrete tokens, in-domain",
        "Discrete tokens, zero-shot",
        "Continuous tokens, zero-shot",
        "Discrete tokens",
        "Continuous tokens",
    ]
    titok = by_model["TiTok-L-32"]
    assert titok[0].dagger
    assert [c.text for c in titok[1:]] == ["32", "4096", "0.00586", "-", "-", "2.21", "-"]
    assert not any(c.mark for c in titok)
    assert "torch-fidelity" in made.caption
    assert "protocol unstated" in made.caption
    assert any("sources disagree, also 2.11" in note for note in made.notes)
    assert {"@misc{mine}", "@inproceedings{heusel2017gans,"} <= set(bib.splitlines())


def test_where_a_table_shows_resolutions_each_has_its_own_best():
    records = [make(None, "good", quality=4), make(None, "poor", quality=-4, seed=2)]
    for record in records:
        record.rows += [row.model_copy(update={"resolution": 512}) for row in record.rows]
    for columns, best in ((("resolution", "psnr"), 2), (("psnr",), 1)):
        made, _ = paper.sheet(paper.subjects(records, []), [paper.Column.of(c) for c in columns])
        assert [line[0].text for line in made.lines() if line[-1].mark == "best"] == ["good"] * best
        assert any("resolutions 256 and 512" in note for note in made.notes) == (best == 1)


def test_everything_tied_means_no_mark():
    records = [make(None, "a"), make(None, "b", seed=3)]
    made, _ = paper.sheet(paper.subjects(records, []), [paper.Column("psnr")])
    assert not any(cell.mark for line in made.lines() for cell in line)


def test_an_unknown_column_or_published_model_names_the_nearest():
    with pytest.raises(UnknownName, match="psnr"):
        paper.sheet(paper.subjects([make()], []), [paper.Column("psrn")])
    with pytest.raises(UnknownName, match="TiTok"):
        paper.pick_published(table.published(["reconstruction"]), ["TiTak-L-32"])


def test_a_table_over_several_data_says_which_number_is_of_which():
    a, b = make(None, "m", dataset="imagenet-val"), make(None, "m", dataset="folder:mine", quality=1, seed=1)
    other = make(None, "other", dataset="folder:mine", seed=2)
    made, _ = paper.sheet(paper.subjects([a, b, other], []), [paper.Column("psnr"), paper.Column("ssim")])
    on = "psnr, ssim on imagenet-val (n = 60), folder:mine (n = 60) under the protocol rgb8"
    assert on in made.caption
    assert any(note.startswith("m, psnr: ") and " on imagenet-val, also " in note for note in made.notes)
    assert any(note.endswith(" on folder:mine") for note in made.notes)
    alone, _ = paper.sheet(paper.subjects([a], []), [paper.Column("psnr")])
    assert "on imagenet-val (n = 60) at 256 px: psnr under the protocol rgb8." in alone.caption


@pytest.mark.parametrize(("typed", "meant"), [("titk", "TiTok-L32"), ("LLAMAGN", "LlamaGen"), ("nope", None)])
def test_the_nearest_name_is_found_whatever_its_case(typed, meant):
    error = UnknownName("published model", typed, ["LlamaGen", "TiTok-L32", "jpeg"])
    assert error.near[:1] == ([meant] if meant else [])
    assert ("Did you mean" in str(error)) == bool(meant)


def test_latex_compiles(tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex here")
    made, _ = paper.sheet(paper.subjects([make(None, EVIL), make(None, "b")], []), [paper.Column("psnr")])
    page = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + sheet.latex(made) + "\\end{document}"
    (tmp_path / "t.tex").write_text(page)
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_a_leaderboard_as_json_is_plain():
    flat = leaderboard.lines(leaderboard.boards(entries([make()])))
    assert json.loads(json.dumps(flat, allow_nan=False))[0]["metric"] == "psnr"


def test_a_thousand_models_are_ranked_in_under_two_cpu_seconds():
    record = make(None, "m", tokens=(64, 256))
    many = [
        record.model_copy(update={"run_id": f"a{i:011d}", "model": record.model.model_copy(update={"name": f"m{i}"})})
        for i in range(1000)
    ]
    start = time.process_time()
    boards = leaderboard.boards(entries(many))
    assert len(leaderboard.csv(leaderboard.lines(boards)).splitlines()) == 1 + 1000 * 2 * 6
    assert time.process_time() - start < 2


def test_a_grids_tokens_scale_with_the_area_and_a_sequence_says_no_more_than_its_card():
    grid = {"kind": "continuous", "form": "2d", "tokens": 1024, "resolution": 256}
    line = {"kind": "continuous", "form": "1d", "tokens": 32, "resolution": 256}

    def shown(card, resolution, tokens=None):
        return paper.fact(paper.Subject("m", tokens, resolution, card), "tokens")

    assert [shown(grid, r) for r in (256, 512, None)] == ["1024", "4096", "1024"]
    assert [shown(line, r) for r in (256, 512)] == ["32", "-"]
    assert shown(grid, 512, 64) == "64" and shown({"kind": "bytes", "tokens": 3}, 256) == "-"
