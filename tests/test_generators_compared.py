"""What people read of generators' records: seeds and guidance are named, seeds are summed up, and only equals stand beside each other."""

from __future__ import annotations

import io
import json
import re
import zlib

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vtbench import baseline
from vtbench.comparable import entries
from vtbench.comparison import compare
from vtbench.record import DatasetInfo, Environment, ModelInfo, Record, Row, SuiteInfo, write
from vtbench.records import label, piece, without_single_seeds
from vtbench.report import leaderboard, paper, sweeps
from vtbench.report.gallery import gather
from vtbench.report.html import page
from vtbench.report.model_card import model_card
from vtbench.report.terminal import show
from vtbench.result import Result
from vtbench.seeds import summarise


def made(guidance: float, seed: int, fid: float, **options) -> Record:
    """A run of a generator; its jackknife groups move with the seed."""
    groups = [fid + 0.1 * np.sin(i + seed) for i in range(20)]
    shared = {"protocol": "adm-gfid", "resolution": 64, "n": 40}
    rows = [
        Row(metric="fid", value=fid, ci_low=fid - 2, ci_high=fid + 2, higher_is_better=False, groups=groups, **shared),
        Row(metric="recall", value=0.5, ci_low=0.4, ci_high=0.6, higher_is_better=True, **shared),
    ]
    kept = {"conditions": "labels:balanced-4x10", "conditions_revision": "sha256:1", **options}
    return Record(
        run_id=f"a{int(guidance * 10):02d}{seed}{zlib.crc32(str(sorted(options.items())).encode()):08x}",
        started=f"2026-01-01T00:00:{seed:02d}",
        model=ModelInfo(name="rar-b", revision="r", params={"guidance": guidance}),
        suite=SuiteInfo(name="toy-gen", version=1, digest="d"),
        dataset=DatasetInfo(name="folder:real", revision="sha256:0", n=200, made=40),
        options={**kept, **({"seed": seed} if seed else {})},
        rows=rows,
        environment=Environment(seed=seed),
    )


@pytest.fixture
def sweep(monkeypatch) -> list[Record]:
    """Two guidances: each a summary over three seeds, and the seeds."""
    monkeypatch.setattr("vtbench.seeds.diversity", lambda read, name: [])  # it reads features, and there are none
    out = []
    for guidance, fid in ((1.0, 30.0), (4.0, 10.0)):
        runs = [made(guidance, seed, fid + seed) for seed in range(3)]
        out += [summarise(runs, []), *runs]
    return out


def test_a_label_says_the_seed_and_of_how_many_a_summary_is(sweep):
    assert [label(r) for r in sweep[:4]] == [
        "rar-b:guidance=1.0,seeds=3", "rar-b:guidance=1.0", "rar-b:guidance=1.0,seed=1", "rar-b:guidance=1.0,seed=2",
    ]  # fmt: skip
    bare = sweep[2].model_copy(update={"model": ModelInfo(name="tiny-gen")})
    assert label(bare) == "tiny-gen:seed=1"
    assert [piece(s) for s in ("all", "seeds=3", "small;seeds=3", "seeds=3;of=std", "set=ic13")] == [
        "all", "all", "small", "seeds=3;of=std", "set=ic13",
    ]  # fmt: skip


def test_a_summary_stands_for_its_seeds_and_for_no_others(sweep):
    other = made(1.0, 7, 33.0)
    assert [label(r) for r in without_single_seeds([*sweep, other])] == [
        "rar-b:guidance=1.0,seeds=3", "rar-b:guidance=4.0,seeds=3", "rar-b:guidance=1.0,seed=7",
    ]  # fmt: skip
    alone = sweep[1:4]
    assert without_single_seeds(alone) == alone


def test_tables_and_boards_hold_one_line_a_guidance(sweep):
    latest = paper.latest(sweep)
    assert len(latest) == 2 and len(paper.latest(sweep, each_seed=True)) == 8
    found, _ = paper.sheet(paper.subjects(latest, []), [paper.Column.of("fid")])
    (section,) = found.sections
    assert [line[0].text for line in section.lines] == ["rar-b:guidance=1.0,seeds=3", "rar-b:guidance=4.0,seeds=3"]
    assert [line[1].mark for line in section.lines] == ["second", "best"]
    assert "Student's t" in found.caption and "40 images against folder:real (n = 200)" in found.caption

    (sheet,) = leaderboard.sheets(leaderboard.boards(entries(latest)))
    assert [h.name for h in sheet.headings] == ["model", "fid", "recall"]
    assert sheet.title == "toy-gen at 64 px, 40 images against folder:real (n = 200)"
    assert [line[1].text.split()[-1] for line in sheet.lines()] == ["(1)", "(2)"]
    tied = [made(g, 0, fid) for g, fid in ((1.0, 10.5), (2.0, 10.0), (3.0, 11.0))]
    (sheet,) = leaderboard.sheets(leaderboard.boards(entries(tied)))
    assert [line[1].text for line in sheet.lines()] == ["10 (1)", "10 (1)", "11 (1)"]
    assert next(line[0].text for line in sheet.lines()) == "rar-b:guidance=2.0"


def test_a_result_gives_the_mean_over_seeds_first(sweep):
    found = Result(sweep[:4])
    assert found["fid"].value == pytest.approx(31.0)
    assert found.flat()["fid"] == pytest.approx(31.0) and found.flat()["fid/seeds=3;of=std"] == pytest.approx(1.0)


def test_summaries_compare_with_each_other_and_with_one_run(sweep, tmp_path):
    (pair,) = compare(sweep[0], sweep[4], out=tmp_path)
    fid = next(line for line in pair.lines if line.a.row.metric == "fid")
    assert fid.difference == pytest.approx(-20) and fid.verdict == "better" and fid.how == "unpaired"
    (mixed,) = compare(sweep[0], sweep[5], out=tmp_path)
    assert {line.why for line in mixed.lines} == {""}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"conditions": "labels:balanced-4x20", "conditions_revision": "sha256:2"}, "labels:balanced-4x20"),
        (
            {"reference_statistics": "sha256:5", "reference_protocol": "adm"},
            "against the reference's images, the other",
        ),
    ],
)
def test_two_gfids_that_do_not_compare_say_why(tmp_path, change, why):
    a, b = made(1.0, 0, 30.0), made(4.0, 0, 10.0, **change)
    (pair,) = compare(a, b, out=tmp_path)
    assert all(line.verdict == "not comparable" and why in line.why for line in pair.lines)


def test_other_statistics_of_the_same_images_are_another_reference(tmp_path):
    a, b = (made(1.0, 0, 30.0, reference_statistics=d, reference_protocol="adm") for d in ("sha256:1", "sha256:2"))
    (pair,) = compare(a, b, out=tmp_path)
    assert {line.why for line in pair.lines} == {"other statistics of the reference"}


def test_a_baseline_keeps_seeds_apart(sweep):
    rows = baseline.lines_of(sweep[:4])
    assert {key[1] for key in rows} == {
        "guidance=1.0", "guidance=1.0;seed=1", "guidance=1.0;seed=2", "guidance=1.0;seeds=3",
    }  # fmt: skip


def test_a_model_card_says_what_the_task_was():
    text = model_card([made(1.0, 0, 30.0)])
    assert "unconditional-image-generation" in text and "image-to-image" not in text
    assert "text-to-image" in model_card([made(1.0, 0, 30.0, conditions="prompts:captions_val2014")])


def printed(records, width: int, **how) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(records, console, **how)
    return console.file.getvalue()


def test_more_models_than_fit_side_by_side_stand_below_each_other(sweep):
    records = [made(g / 10, 0, 30.0 - g) for g in range(1, 9)]
    wide, narrow = printed(records, 400), printed(records, 90)
    assert "rar-b:guidance=0.8" in wide and "fid ↓" in wide
    lines = [line for line in narrow.splitlines() if "rar-b:guidance=0." in line]
    assert len(lines) == 8 and "…" not in narrow
    below = narrow.splitlines()
    for g, line in enumerate(lines, start=1):
        assert f" {30 - g} " in line and f"[{28 - g}, {32 - g}]" in below[below.index(line) + 1]
    assert "toy-gen at 64 px, 40 images against folder:real (n = 200)" in narrow


def test_what_was_skipped_is_told_once_for_all(sweep):
    records = [made(g / 10, 0, 30.0) for g in range(1, 9)]
    for record in records:
        record.rows.append(Row(metric="cmmd", protocol="embeddings", status="skipped", why="no weights"))
    told = [line for line in printed(records, 120).splitlines() if "no weights" in line]
    assert told == ["rar-b:guidance=0.1, rar-b:guidance=0.2, rar-b:guidance=0.3 and 5 more: cmmd: skipped: no weights"]


def test_the_gallery_shows_what_generators_made_and_from_what(tmp_path):
    records = [made(1.0, 0, 30.0), made(4.0, 0, 10.0)]
    for shade, record in enumerate(records):
        folder = tmp_path / "images" / record.run_id / "64"
        for i in range(3):
            path = folder / "generated" / (f"{i:05d}/samples/00000.png" if i else "p__0000.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (40 * i, 90 * shade, 7)).save(path)
        said = [{"id": "p/0000", "prompt": "a </script> cat"}, {"id": "00001/00000", "label": 3}]
        (folder / "conditions.jsonl").write_text("\n".join(map(json.dumps, said)))
        write(record, tmp_path)
    data = gather(records, tmp_path).data
    assert [m["name"] for m in data["models"]] == ["rar-b:guidance=1.0", "rar-b:guidance=4.0"]
    items = {i["id"]: i for i in data["items"]}
    assert {k: i["said"] for k, i in items.items()} == {
        "p/0000": "a </script> cat", "00001/00000": "label 3", "00002/00000": "",
    }  # fmt: skip
    assert all(i["original"] is None and set(i["pictures"]) == {0, 1} for i in items.values())
    assert "a </script> cat" not in page(records, tmp_path)
    (tmp_path / "images" / records[0].run_id / "64" / "conditions.jsonl").write_text("damaged")
    assert len(gather(records, tmp_path).data["items"]) == 3


def of_n(record: Record, n: int, **options) -> Record:
    rows = [r.model_copy(update={"n": n}) for r in record.rows]
    dataset = record.dataset.model_copy(update={"made": n})
    return record.model_copy(
        update={"rows": rows, "dataset": dataset, "options": {**record.options, **options}, "run_id": f"b{n}"}
    )


def test_another_number_of_images_is_not_compared_and_not_ranked(tmp_path):
    whole = made(1.0, 0, 30.0)
    part, other = of_n(made(4.0, 0, 20.0), 20, subset="20"), of_n(made(9.0, 0, 25.0), 20, subset="20")
    (pair,) = compare(whole, part, out=tmp_path)
    why = {line.a.row.metric: line.why for line in pair.lines}
    assert why["fid"] == "n = 40 and 20: values of a whole set move with the number of images" and why["recall"] == ""
    sheets = leaderboard.sheets(leaderboard.boards(entries([whole, part, other])))
    assert [s.title for s in sheets] == [
        "toy-gen at 64 px, 40 images against folder:real (n = 200)",
        "toy-gen at 64 px, 20 images against folder:real (n = 200)",
    ]
    assert [len(s.sections[0].lines) for s in sheets] == [1, 2]
    found, _ = paper.sheet(paper.subjects([whole, part, other], []), [paper.Column.of("fid")])
    (note,) = found.notes
    assert note == "rar-b:guidance=1.0: not ranked with the others in fid (the subset 20 and the whole data)"


def test_a_sweep_of_guidance_is_drawn_and_other_references_apart(sweep):
    runs = [made(g, 0, fid) for g, fid in ((1.0, 30.0), (2.0, 12.0), (4.0, 10.0))]
    (found,) = sweeps.sweeps(runs)
    assert (found.name, found.param, [at for at, _ in found.points]) == ("rar-b", "guidance", [1.0, 2.0, 4.0])
    titles = [re.search("<figcaption>(.*?)</figcaption>", svg)[1] for svg in sweeps.plots(runs)]
    data = "toy-gen, 64 px, 40 images against folder:real (n = 200)"
    assert titles == [f"fid (adm-gfid), {data}", f"recall (adm-gfid), {data}", f"fid and recall over guidance, {data}"]
    fid, _, trade = sweeps.plots(runs)
    assert "guidance=2: fid 12" in fid and fid.count("<circle") == 3 and fid.count("class=bar") == 3
    assert "guidance=4: recall 0.50, fid 10" in trade
    other = [r.model_copy(update={"options": {**r.options, "reference_statistics": "sha256:1"}}) for r in runs]
    assert len(sweeps.plots([*runs, *other])) == 6
    assert sweeps.plots(runs[:2]) == [] and sweeps.plots(sweep) == []
    none = made(1.0, 0, 30.0).model_copy(update={"model": ModelInfo(name="rar-b", params={"guidance": "none"})})
    assert len(sweeps.sweeps([none, *runs])) == 1
