"""GenEval's suite from folder to rows, on drawn scenes whose truth is known, with a toy detector (`toy_scenes`)."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_scenes as toy

from vtbench.api import Batch, Capabilities, Generator, Measurements
from vtbench.data.geneval import conditions
from vtbench.errors import BadData, UnknownName, UsageError, VtbenchError
from vtbench.evaluation import Evaluator
from vtbench.extractors.detections import DETECTORS, Detected, Detections
from vtbench.geneval.prompts import TAGS, VERSION, prompts
from vtbench.intervals import bootstrap_mean, bootstrap_strata
from vtbench.prompted import score_alone

SUITE = str(Path(__file__).parent / "geneval_toy" / "geneval-toy.toml")
PROMPTS = prompts()
SOME = {tag: [i for i, p in enumerate(PROMPTS) if p.tag == tag][:3] for tag in TAGS}
CHOSEN = {i: PROMPTS[i] for rows in SOME.values() for i in rows}
RIGHT = {i: (7 * n) % 5 for n, i in enumerate(CHOSEN)}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "model"
    toy.write(root, CHOSEN, RIGHT)
    return root


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def scored(layout, out):
    return score_alone(str(layout), [SUITE], out=str(out), device="cpu", alarms=False)


def rows_of(result):
    return {(r.metric, r.slice): r for r in result.rows()}


def test_every_tag_is_what_was_drawn(scored):
    rows = rows_of(scored)
    accuracy = {tag: np.mean([RIGHT[i] / 4 for i in numbers]) for tag, numbers in SOME.items()}
    for tag, wanted in accuracy.items():
        row = rows["geneval", f"tag={tag}"]
        assert row.value == pytest.approx(wanted)
        assert row.ci_low <= row.value <= row.ci_high
        assert row.n == 12
    overall = rows["geneval", "all"]
    assert overall.value == pytest.approx(np.mean(list(accuracy.values())))
    assert overall.ci_low < overall.value < overall.ci_high
    assert len(overall.groups) == len(CHOSEN)
    assert rows["geneval_images", "all"].value == pytest.approx(100 * np.mean([r / 4 for r in RIGHT.values()]))
    assert rows["geneval_prompts", "all"].value == pytest.approx(100 * np.mean([r > 0 for r in RIGHT.values()]))


def test_the_results_file_is_the_originals_form(scored, out, layout):
    (path,) = (out / "samples").glob("*.geneval-toy.jsonl")
    table = pd.read_json(path, orient="records", lines=True)
    assert list(table) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert sorted(table["filename"]) == [f"{i:05d}/samples/{k:05d}.png" for i in sorted(CHOSEN) for k in range(4)]
    by_tag = table.groupby("tag")["correct"].mean()  # as its own summary script reads it
    rows = rows_of(scored)
    for tag in TAGS:
        assert by_tag[tag] == pytest.approx(rows["geneval", f"tag={tag}"].value)
    assert by_tag.mean() == pytest.approx(rows["geneval", "all"].value)
    assert 100 * table.groupby("metadata")["correct"].any().mean() == pytest.approx(
        rows["geneval_prompts", "all"].value
    )
    assert all(json.loads(row) for row in table["details"][table["correct"]])
    assert (table["reason"].fillna("") == "").equals(table["correct"].astype(bool))


def test_scoring_again_detects_nothing(scored, layout, out, monkeypatch):
    monkeypatch.setattr(toy.ToyBlobs, "detect", lambda *_: pytest.fail("a forward"))
    again = score_alone(str(layout), [SUITE], out=str(out), device="cpu", alarms=False)
    assert [r.value for r in again.rows()] == [r.value for r in scored.rows()]
    stricter = score_alone(
        str(layout),
        [SUITE],
        out=str(out),
        device="cpu",
        alarms=False,
        protocol=("geneval-toy+counting_threshold=0.96",),
    )
    values = {r.protocol: r.value for r in stricter.rows() if r.slice == "tag=counting"}
    assert values["geneval-toy+counting_threshold=0.96"] == 0
    assert values["geneval-toy"] == rows_of(scored)["geneval", "tag=counting"].value


class Painter(Generator):
    """Draws its prompts: right or wrong by the condition's seed alone."""

    name, revision = "painter", "painter-1"
    capabilities = Capabilities(needs_caption=True, stochastic=True)

    def __init__(self):
        self.made = 0

    def generate(self, conditions, *, seeds, budget=None):
        import torch

        self.made += len(conditions)
        by_text = {p.text: p for p in CHOSEN.values()}
        images = [toy.scene(by_text[c.caption], seed % 3 > 0) for c, seed in zip(conditions, seeds)]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def some_prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("list") / "some.jsonl"
    path.write_text("".join(p.metadata + "\n" for p in CHOSEN.values()))
    return path


def test_generated_images_are_scored_and_saved_in_genevals_layout(some_prompts, tmp_path):
    how = {"data": str(some_prompts), "out": str(tmp_path), "device": "cpu", "keep_images": "all"}
    model = Painter()
    made = Evaluator([SUITE], batch_size=5, **how)(model)
    assert model.made == 4 * len(CHOSEN)
    (saved,) = {p.parent.parent.parent for p in tmp_path.glob("images/*/*/generated/*/samples/00000.png")}
    back = score_alone(str(saved), [SUITE], out=str(tmp_path / "back"), device="cpu")
    values = {k: (r.value, r.ci_low, r.ci_high) for k, r in rows_of(made).items()}
    assert {k: (r.value, r.ci_low, r.ci_high) for k, r in rows_of(back).items()} == values
    assert 0 < values["geneval", "all"][0] < 1
    Evaluator([SUITE], batch_size=5, **how)(model)
    assert model.made == 4 * len(CHOSEN), "a second run made images again"


def test_without_the_networks_images_are_made_and_kept_to_be_judged_elsewhere(some_prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    made = Evaluator(["geneval"], data=str(some_prompts), out=str(tmp_path), device="cpu", keep_images="all", limit=8)(
        Painter()
    )
    assert {r.status for r in made.rows() if r.metric.startswith("geneval")} == {"skipped"}
    assert len(list(tmp_path.glob("images/*/*/generated/*/samples/*.png"))) == 8


# ------------------------------------------------------------------------------------------------ prompts as data


def test_the_published_list_is_genevals_data_set():
    found = conditions()
    assert (found.name, found.revision, len(found)) == ("geneval", VERSION, 2212)
    assert found.samples[5].id == "00001/00001"
    assert found.samples[5].caption == PROMPTS[1].text


def test_a_whole_layout_of_published_prompts_is_genevals_data_set(tmp_path):
    for i, prompt in enumerate(PROMPTS):
        (tmp_path / f"{i:05d}").mkdir()
        (tmp_path / f"{i:05d}" / "metadata.jsonl").write_text(prompt.metadata)
    found = conditions(str(tmp_path))
    assert (found.name, found.revision, found.problems) == ("geneval", VERSION, ())
    (tmp_path / "00007" / "metadata.jsonl").write_text(PROMPTS[8].metadata)
    other = conditions(str(tmp_path))
    assert other.name.startswith("prompts:") and other.revision != VERSION
    assert any("another list" in note and other.revision[:19] in note for note in other.notes)


def test_missing_and_surplus_images_are_counted_and_named(layout, tmp_path):
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(layout, root)
    first, second, third, *_ = sorted(p.name for p in root.iterdir())
    shutil.copy(root / first / "samples" / "0003.png", root / first / "samples" / "0004.png")
    (root / second / "samples" / "0002.png").unlink()
    (root / third / "samples" / "0001.png").write_bytes(b"no picture")
    (root / "99999").mkdir()
    (root / "99999" / "samples").mkdir()
    found = conditions(str(root))
    assert [count for note, count in found.notes.items() if "left out" in note and f"{first}/00004" in note] == [1]
    assert ("99999", "99999/metadata.jsonl is missing, so nobody knows what its images should show") in found.problems
    result = score_alone(str(root), [SUITE], out=str(tmp_path / "out"), device="cpu", alarms=False)
    (record,) = result.records
    reasons = {f.id: f.reason for f in record.failures}
    assert "no image of" in reasons[f"{second}/00002"]
    assert f"{third}/00001" in reasons
    assert {r.status for r in result.rows()} == {"partial"}
    assert rows_of(result)["geneval_images", "all"].n == 4 * len(CHOSEN) - 2


def test_a_folder_stands_for_a_generator_too(layout, scored, tmp_path):
    given = Evaluator([SUITE], data=str(layout), out=str(tmp_path), device="cpu", alarms=False)(f"images:{layout}")
    assert {k: r.value for k, r in rows_of(given).items()} == {k: r.value for k, r in rows_of(scored).items()}


def test_folders_that_are_no_layout_and_metadata_that_is_none(tmp_path):
    with pytest.raises(BadData, match="not laid out like GenEval"):
        conditions(str(tmp_path))
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000" / "metadata.jsonl").write_text("{")
    with pytest.raises(BadData, match="is not JSON"):
        conditions(str(tmp_path))
    with pytest.raises(BadData, match="cannot read"):
        conditions(str(tmp_path / "nothing.jsonl"))


def test_images_of_another_resolution_than_asked_for_fail_by_name(layout, tmp_path):
    how = {"out": str(tmp_path), "device": "cpu", "resolution": (128,)}
    (record,) = score_alone(str(layout), [SUITE], **how).records
    assert record.status == "failed"
    assert any("64 x 64 pixels, not 128 x 128" in f.reason for f in record.failures)


# ------------------------------------------------------------------------------------------------ the extractor


def test_a_detector_that_finds_nothing_gives_zero_and_says_so(layout, tmp_path, monkeypatch):
    nothing = Detected(np.zeros(0, int), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
    monkeypatch.setattr(toy.ToyBlobs, "detect", lambda self, images: [nothing for _ in images])
    result = score_alone(str(layout), [SUITE], out=str(tmp_path), device="cpu", alarms=False)
    row = rows_of(result)["geneval", "all"]
    assert row.value == 0
    assert "found nothing in any image" in row.why
    assert row.notes["images_without_detections"] == 4 * len(CHOSEN)


def test_a_class_out_of_range_is_an_error_that_names_it(monkeypatch):
    odd = Detected(np.array([80]), np.array([0.9], np.float32), np.zeros((1, 4), np.float32))
    monkeypatch.setattr(toy.ToyBlobs, "detect", lambda self, images: [odd])
    extractor = Detections({"detector": "toy-blobs", "colours": "toy-median"})
    with pytest.raises(VtbenchError, match=r"gave the class 80; GenEval's are 0 to 79"):
        extractor(Batch([None], images=[np.zeros((9, 9, 3), np.uint8)]), ["class"])


def test_unknown_detectors_are_named_with_the_nearest():
    with pytest.raises(UnknownName, match="toy-blobs"):
        Detections({"detector": "toy-blob"})
    assert "mask2former-swin-s-mmdet" in DETECTORS


def test_only_detections_above_the_kept_score_are_stored():
    image = toy.draw([("dog", "red", 2, 2), ("cat", "blue", 40, 40)])
    seen = toy.ToyBlobs().detect([image])[0]
    seen.scores[:] = (0.3, 0.31)
    extractor = Detections({"detector": "toy-blobs", "colours": "toy-median"})
    extractor.detector = type("One", (), {"detect": lambda self, images: [seen]})()
    rows = extractor(Batch([None], images=[image]), ["class", "score", "box", "colour"])
    assert rows["class"].values.tolist() == [15]
    assert rows["box"].values.tolist() == [[40, 40, 50, 50]]
    assert rows["colour"].values.shape == (1, 10)


# ------------------------------------------------------------------------------------------------ intervals


def test_the_interval_by_prompt_is_wider_than_one_by_image_and_near_its_formula():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(300), 4)
    stratum = prompt // 50
    right = (rng.random(300) < 0.6)[prompt].astype(float)  # all four images of a prompt alike
    interval = bootstrap_strata(right, prompt, stratum)
    assert interval.value == pytest.approx(np.mean([right[stratum == s].mean() for s in range(6)]))
    means = [right[stratum == s].mean() for s in range(6)]
    error = np.sqrt(sum(m * (1 - m) / 50 for m in means)) / 6
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    by_image = bootstrap_strata(right, np.arange(1200), stratum)
    assert interval.high - interval.low > 1.7 * (by_image.high - by_image.low)
    one = bootstrap_strata(right, prompt, np.zeros(1200))
    plain = bootstrap_mean(right, prompt)
    assert (one.value, one.low, one.high) == pytest.approx((plain.value, plain.low, plain.high), abs=0.01)


def test_images_without_any_detection_are_wrong_not_absent():
    from vtbench import registry

    metric = registry.metric("geneval")
    fields = {"threshold": 0.3, "counting_threshold": 0.9, "max_objects": 16, "max_overlap": 1.0, "apart": 0.1}
    samples = defaultdict(list)
    for i, prompt in CHOSEN.items():
        samples["geneval"].append(prompt.metadata)
        samples["prompt_id"].append(f"{i:05d}")

    class Empty:
        image = np.zeros(0, int)

        def array(self):
            return np.zeros(0)

    columns = dict.fromkeys(("class", "score", "box", "colour"), Empty())
    table = {k: np.array(v, object) for k, v in samples.items()}
    values = list(metric.compute(Measurements(columns, table, np.zeros(len(CHOSEN), int)), fields))
    assert [v.value for v in values] == [0.0] * 7


def test_from_the_command_line(layout, tmp_path):
    import typer
    from typer.testing import CliRunner

    from vtbench.cli.score import score

    app = typer.Typer()
    app.command()(score)
    done = CliRunner().invoke(app, [str(layout), "--suite", SUITE, "--out", str(tmp_path), "--json", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert any(r["metric"] == "geneval" for r in json.loads(done.stdout))


def test_without_the_networks_rows_are_skipped_with_the_way_out(layout, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    result = score_alone(str(layout), ["geneval"], out=str(tmp_path), device="cpu")
    assert {r.status for r in result.rows()} == {"skipped"}
    judged = [r for r in result.rows() if r.metric.startswith("geneval")]
    assert judged and all("mask2former_swin-s-p4-w7-224" in r.why for r in judged)
    with pytest.raises(UsageError, match="not kept"):
        score_alone(str(layout), ["geneval"], out=str(tmp_path), device="cpu", protocol=("geneval+threshold=0.1",))
