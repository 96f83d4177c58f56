"""Generation: from conditions to rows, with a toy generator whose images are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from toys import Blots, Patches

import vtbench
from vtbench.api import Condition, View
from vtbench.calling import generate, unmade
from vtbench.cli.generate import beside, variants
from vtbench.comparable import Entry, why_not
from vtbench.data.conditions import labels, prompts
from vtbench.errors import BadData, BadSample, UsageError, VtbenchError
from vtbench.evaluation import Evaluator
from vtbench.hashing import seed_of
from vtbench.record import DatasetInfo, ModelInfo, Record, Row, SuiteInfo
from vtbench.record import write as write_record
from vtbench.scorer import Scorer
from vtbench.seeds import over_seeds
from vtbench.suite import load_suite
from vtbench.view import see
from vtbench.zoo.images import Images

SUITE = """
name = "toy-generation"
version = 1
task = "generate"
chunk = 4
resolutions = [32]
[data]
reader = "labels"
classes = 4
images = 12
exact = true
needs_reference = false
[[metrics]]
name = "tokens_used"
protocols = ["tokens-of-toys"]
"""
PROTOCOL = """
name = "tokens-of-toys"
metrics = ["tokens_used"]
[input]
labels = "balanced"
fit = "short-side-crop"
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols/tokens-of-toys.toml").write_text(PROTOCOL)
    path = tmp_path / "toy-generation.toml"
    path.write_text(SUITE)
    return str(path)


def run(suite, tmp_path, model, **options):
    return Evaluator(suite, out=str(tmp_path / "out"), device="cpu", **options)(model)


def test_balanced_labels_go_round_and_random_ones_do_not_depend_on_anything():
    balanced = [s.label for s in labels(3, 9).samples]
    assert balanced == [0, 1, 2] * 3
    random = labels(3, 3000, "random")
    assert random.revision == labels(3, 3000, "random").revision
    counts = np.bincount([s.label for s in random.samples])
    assert len(counts) == 3 and counts.min() > 900
    with pytest.raises(UsageError, match="10 images are not balanced over 3 classes"):
        labels(3, 10)


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("p.txt", "a cat\n\na dog\n", ["00000", "00001"]),
        ("p.jsonl", '{"id": "x", "prompt": "a cat", "tag": "one"}\n{"id": "b", "caption": "a dog"}\n', ["b", "x"]),
        ("p.csv", "id,prompt\n7,a cat\n8,a dog\n", ["7", "8"]),
        ("p.json", '{"u": {"prompt": "a cat", "category": "c"}, "v": {"prompt": "a dog"}}', ["u", "v"]),
        (
            "p.json",
            '{"images": [{"id": 1, "file_name": "COCO_1.jpg"}], "annotations": [{"id": 9, "image_id": 1, "caption": "late"}, {"id": 3, "image_id": 1, "caption": "first"}]}',
            ["COCO_1"],
        ),
    ],
)
def test_prompts_of_every_kind_of_file(tmp_path, name, text, ids):
    (tmp_path / name).write_text(text)
    found = prompts(tmp_path / name)
    assert [s.id for s in found.samples] == ids
    assert "late" not in {s.caption for s in found.samples}
    four = prompts(tmp_path / name, each=4)
    assert [s.id for s in four.samples[:4]] == [f"{ids[0]}/{k:04d}" for k in range(4)]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("p.jsonl", '{"id": "x", "prompt": "a cat"}\n{"id": \n', "line 2 is not JSON"),
        ("p.jsonl", '{"id": "x", "prompt": "a cat"}\n{"id": "x", "prompt": "a dog"}\n', "'x' comes twice"),
        ("p.csv", "id,words\n7,a cat\n", "entry 1 has no prompt"),
        ("p.txt", "\n", "holds no prompts"),
        ("p.yaml", "a", "no file of prompts that vtbench knows"),
        ("p.json", '{"images": [], "annotations": [1]}', "is not laid out like COCO's captions"),
        ("p.json", '{"images": [3], "annotations": [{"id": 1}]}', "is not laid out like COCO's captions"),
        ("instances.json", '{"images": [], "annotations": [{"id": 1, "bbox": []}]}', "holds no captions"),
    ],
)
def test_bad_files_of_prompts_are_one_line(tmp_path, name, text, why):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadData, match=why):
        prompts(tmp_path / name)
    with pytest.raises(BadData, match="there is no file of prompts"):
        prompts(tmp_path / "absent.txt")


def test_a_file_with_fewer_prompts_than_the_suite_wants_needs_a_limit(tmp_path):
    path = tmp_path / "captions_val2014.json"
    images = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg"} for i in range(6)]
    path.write_text(
        json.dumps({"images": images, "annotations": [{"id": i, "image_id": i, "caption": f"c {i}"} for i in range(6)]})
    )
    with pytest.raises(BadData, match=r"holds 6 prompts, and 30 are wanted. --limit 6 measures so many"):
        prompts(path, count=30)
    assert len(prompts(path, count=30, limit=4).samples) == 6
    with pytest.raises(BadData, match=r"holds no prompts. Name the file itself: --data .*captions_val2014.json"):
        prompts(tmp_path)


def test_a_generator_of_labels_is_refused_where_there_are_prompts_alone(suite, tmp_path):
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    with open(suite) as file:
        text = file.read().replace('reader = "labels"', 'reader = "prompts"')
    (tmp_path / "of-prompts.toml").write_text(text)
    with pytest.raises(
        UsageError, match="blots makes images from class labels, and the suite toy-generation has prompts"
    ):
        run(str(tmp_path / "of-prompts.toml"), tmp_path, Blots(), data=str(tmp_path / "p.txt"))
    texts = vtbench.generator(lambda prompts, seeds: torch.zeros(len(seeds), 3, 32, 32), prompts=True)
    with pytest.raises(
        UsageError, match="mine makes images from prompts, and the suite toy-generation has class labels"
    ):
        run(suite, tmp_path, texts)


def test_costs_are_taken_on_conditions_that_the_model_can_use(suite, tmp_path):
    with open(suite, "a") as file:
        file.write('[[metrics]]\nname = "seconds_per_image"\nprotocols = ["generation-costs"]\n')

    def sample(given, seeds):
        assert max(given) < 3
        return torch.zeros(len(seeds), 3, 32, 32)

    found = run(suite, tmp_path, vtbench.generator(sample, classes=3, resolution=32))
    row = next(r for r in found.record.rows if r.metric == "seconds_per_image")
    assert row.value > 0 and row.notes["batch"] == 3


def test_images_depend_on_their_own_seed_and_a_second_run_makes_none(suite, tmp_path):
    model = Blots()
    first = run(suite, tmp_path, model, batch_size=4, keep_images="all")
    assert model.calls == 12
    assert first["tokens_used"].value == 4 and first.record.options["conditions"] == "labels:balanced-4x3"
    kept = sorted(
        (tmp_path / "out/images" / first.record.run_id / "32-generated" / "generated").glob("*.png")
    ) or sorted((tmp_path / "out/images" / first.record.run_id).glob("*/generated/*.png"))
    assert [p.stem for p in kept] == [f"{i:06d}" for i in range(12)]
    again = run(suite, tmp_path, model, batch_size=4, keep_images="all")
    assert model.calls == 12 and again.record.rows == first.record.rows
    seed = seed_of(0, "000005", "generate")
    alone = Blots().generate([Condition("000005", 5 % 4)], seeds=[seed]).images[0]
    grey = (alone * 255).round().numpy().transpose(1, 2, 0).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(kept[5])), grey)
    other = run(suite, tmp_path, model, seed=1)
    assert model.calls == 24 and other.record.run_id != first.record.run_id


def test_budgets_of_a_prefix_generator_are_rows_of_their_own(suite, tmp_path):
    found = run(suite, tmp_path, Blots(), tokens=(2, 4))
    assert [(r.tokens, r.value) for r in found.record.rows] == [(2, 2.0), (4, 4.0)]


def test_a_token_a_step_makes_fewer_steps_of_fewer_tokens(suite, tmp_path):
    with open(suite, "a") as file:
        file.write('[[metrics]]\nname = "sampling_steps"\nprotocols = ["generation-costs"]\n')
    model = Blots()
    model.steps = 4
    found = run(suite, tmp_path, model, tokens=(2, 4))
    assert [(r.tokens, r.value) for r in found.record.rows if r.metric == "sampling_steps"] == [(2, 2.0), (4, 4.0)]


def test_labels_of_another_rule_change_the_protocols_name(suite, tmp_path):
    found = run(suite, tmp_path, Blots(), labels="random")
    assert {r.protocol for r in found.record.rows} == {"tokens-of-toys+labels=random"}
    assert found.record.options["conditions"] == "labels:random-4x3"


def test_labels_out_of_range_are_failures_that_say_so(suite, tmp_path):
    found = run(suite, tmp_path, Blots(classes=3))
    assert found.record.status == "partial" and len(found.record.failures) == 3
    assert found.record.failures[0].reason.startswith("000003 has the label 3, and blots knows the classes 0 to 2")


def test_a_tokenizer_does_not_generate_and_a_generator_does_not_reconstruct(suite, tmp_path, photos):
    with pytest.raises(UsageError, match="patches is a tokenizer, and the suite toy-generation is one of task"):
        run(suite, tmp_path, Patches())
    with pytest.raises(UsageError, match="blots is a generator"):
        Evaluator("reconstruction-256", data=str(photos), out=str(tmp_path / "o"), device="cpu")(Blots())


def test_a_generator_of_another_size_is_skipped_with_the_reason(suite, tmp_path):
    found = run(suite, tmp_path, Blots(side=64))
    assert [(r.status, r.why) for r in found.record.rows] == [("skipped", "blots makes 64 x 64, the suite wants 32")]


def test_suites_of_generation_say_what_they_need(tmp_path):
    with pytest.raises(UsageError, match="needs --reference"):
        Evaluator("generation-imagenet-256", out=str(tmp_path))
    with pytest.raises(UsageError, match="--data does not apply"):
        Evaluator("generation-imagenet-256", data=str(tmp_path), out=str(tmp_path))
    assert load_suite("generation-imagenet-512").resolutions == (512,)


# ---------------------------------------------------------------------------------- stored images


def write(folder, names, side=32):
    for i, name in enumerate(names):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (i, 0, 0)).save(path)
    return folder


def conditions(*ids, caption="a cat"):
    return [Condition(i, caption=caption) for i in ids]


@pytest.mark.parametrize("spelling", ["00000/0001", "00000/samples/0001", "00000__0001"])
def test_stored_images_are_found_by_the_conditions_names(tmp_path, spelling):
    model = Images(at=str(write(tmp_path / "made", ["a/0000", spelling])))
    model.expect(conditions("a/0000", "00000/0001"), whole=True)
    found = model.generate(conditions("00000/0001"), seeds=[0])
    assert float(found[0, 0, 0, 0] * 255) == pytest.approx(1)


def test_stored_images_of_labels_stand_in_the_order_of_their_numbers(tmp_path):
    model = Images(at=str(write(tmp_path / "made", [str(i) for i in range(12)])))
    wanted = [Condition(f"{i:06d}", label=0) for i in range(12)]
    model.expect(wanted, whole=True)
    reds = model.generate(wanted, seeds=[0] * 12)[:, 0, 0, 0] * 255
    assert reds.round().int().tolist() == list(range(12))


def test_stored_images_that_are_counted_from_one_are_each_taken_once(tmp_path):
    folder = write(tmp_path / "made", [f"{i:05d}" for i in range(1, 13)])
    (folder / "00004.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    model = Images(at=str(folder))
    wanted = [Condition(f"{i:06d}", label=0) for i in range(12)]
    model.expect(wanted, whole=True)
    taken = [*range(3), *range(4, 12)]
    reds = model.generate([wanted[i] for i in taken], seeds=[0] * 11)[:, 0, 0, 0] * 255
    assert reds.round().int().tolist() == taken
    with pytest.raises(BadSample, match="00004"):
        model.generate([wanted[3]], seeds=[0])


def test_stored_images_may_lie_in_folders_of_categories(tmp_path):
    model = Images(at=str(write(tmp_path / "made", ["animals/aa", "food/bb"])))
    model.expect(conditions("aa", "bb"), whole=True)
    model = Images(at=str(tmp_path / "made"))  # as a worker has it, which is told of no conditions
    assert float(model.generate(conditions("bb"), seeds=[0])[0, 0, 0, 0] * 255) == pytest.approx(1)
    twice = Images(at=str(write(tmp_path / "twice", ["animals/aa", "food/aa"])))
    with pytest.raises(UsageError, match="they are called 'animals/aa', the conditions 'aa'"):
        twice.expect(conditions("aa"), whole=True)


def test_missing_and_surplus_images_are_named(tmp_path):
    model = Images(at=str(write(tmp_path / "made", ["a", "b"])))
    with pytest.raises(UsageError, match=r"1 images in .* belong to no condition of the suite \(such as 'b'\)"):
        model.expect(conditions("a", "c"), whole=True)
    with pytest.raises(UsageError, match="they are called 'a', the conditions 'x'"):
        model.expect(conditions("x"), whole=False)
    with pytest.raises(UsageError, match="holds 2 images, and the suite makes 3"):
        model.expect([Condition(f"{i:06d}", label=0) for i in range(3)], whole=True)
    numbered = Images(at=str(write(tmp_path / "numbered", ["000000", "000001"])))
    with pytest.raises(UsageError, match=r"holds 2 images, and the suite makes 3\. --limit 2 measures so many"):
        numbered.expect([Condition(f"{i:06d}", label=0) for i in range(3)], whole=True)


def test_unreadable_and_wrong_images_are_failures_with_their_names(tmp_path):
    folder = write(tmp_path / "made", [f"{i:06d}" for i in range(12)])
    (folder / "000003.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    Image.new("RGB", (16, 16)).save(folder / "000004.png")
    model = Images(at=str(folder))
    items = unmade(labels(4, 12).samples)
    with pytest.raises(BadSample, match="000003"):
        generate(model, [items[3]], 0, None, 32)
    with pytest.raises(BadSample, match="gave an image of 16 x 16 pixels, not 32 x 32"):
        generate(model, [items[4]], 0, None, 32)


# ---------------------------------------------------------------------------------- several seeds, decoders, prompts


def flat_features(monkeypatch):
    """Inception's place taken by the mean colours of 2 x 2 patches, so that distances can be checked by hand."""
    from vtbench import registry
    from vtbench.api import Rows

    class Patches16:
        name, version, takes = "inception", 1, "images"

        def __init__(self, args):
            self.args = args

        def identity(self):
            return {"weights": "sha256:none"}

        def open(self, device):
            pass

        def __call__(self, batch, heads):
            small = torch.nn.functional.adaptive_avg_pool2d(batch.images, 2).flatten(1)
            return {h: Rows(small.numpy()) for h in heads}

    monkeypatch.setitem(registry.EXTRACTOR_TARGETS, "inception", Patches16)


FID = """
[[metrics]]
name = "fid"
protocols = ["adm-gfid"]
"""


def test_several_seeds_have_records_of_their_own_and_a_summary(suite, tmp_path, photos, monkeypatch):
    flat_features(monkeypatch)
    with open(suite, "a") as file:
        file.write(FID)
    evaluator = Evaluator(suite, out=str(tmp_path / "out"), device="cpu", reference=str(photos))
    model = Blots()
    found = over_seeds(evaluator, model, 3)
    assert model.calls == 36 and len(list((tmp_path / "out/records").glob("*.json"))) == 4
    summary, runs = found.records[0], found.records[1:]
    values = [next(r.value for r in run.rows if r.metric == "fid") for run in runs]
    cells = {(r.metric, r.slice): r for r in summary.rows}
    assert cells["fid", "seeds=3"].value == pytest.approx(np.mean(values))
    assert cells["fid", "seeds=3;of=std"].value == pytest.approx(np.std(values, ddof=1)) and len(set(values)) == 3
    means = [small_means(model, seed) for seed in range(3)]
    units = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in means]
    wanted = np.mean([1 - (units[i] * units[j]).sum(1) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert cells["seed_diversity", "features=pool3;seeds=3"].value == pytest.approx(wanted, rel=1e-5)
    assert summary.options["seeds"] == [0, 1, 2] and evaluator.options.seed == 0


def small_means(model, seed):
    images = generate(model, unmade(labels(4, 12).samples), seed, None, 32).images
    grid = (images * 255).round() / 255
    return torch.nn.functional.adaptive_avg_pool2d(grid, 2).flatten(1).double().numpy()


def test_statistics_stand_for_the_reference(suite, tmp_path, photos, monkeypatch):
    from vtbench import reference as references

    flat_features(monkeypatch)
    monkeypatch.setattr(references, "ARRAYS", {"pool3": ("mu", "sigma", 12)})
    with open(suite, "a") as file:
        file.write(FID)
    rng = np.random.default_rng(0)
    rows = rng.normal(0.5, 0.1, (50, 12))
    path = tmp_path / "reference.npz"
    np.savez(path, mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    with pytest.raises(UsageError, match="does not say under which protocol"):
        run(suite, tmp_path, Blots(), reference=str(path))
    found = run(suite, tmp_path, Blots(), reference=str(path), reference_protocol="adm")
    row = next(r for r in found.record.rows if r.metric == "fid")
    assert row.status == "ok" and row.notes["reference"] == "statistics" and row.n == 12
    made = small_means(Blots(), 0)
    covariances = np.cov(made, rowvar=False), np.cov(rows, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    wanted = ((made.mean(0) - rows.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert row.value == pytest.approx(wanted, rel=1e-3)
    assert found.record.dataset.name == "statistics:reference"
    assert found.record.options["reference_statistics"].startswith("sha256:")
    path.rename(tmp_path / "renamed.npz")
    again = run(suite, tmp_path, Blots(), reference=str(tmp_path / "renamed.npz"), reference_protocol="adm")
    assert again.record.options == found.record.options


def test_kept_images_score_as_they_were_measured_even_under_the_references_names(suite, tmp_path, monkeypatch):
    flat_features(monkeypatch)
    with open(suite, "a") as file:
        file.write(FID)
    reference = write(tmp_path / "real", [f"{i:06d}" for i in range(20)])
    found = run(suite, tmp_path, Blots(), reference=str(reference), keep_images="all")
    (kept,) = (tmp_path / "out/images" / found.record.run_id).glob("*/generated")
    said = [json.loads(line) for line in (kept.parent / "conditions.jsonl").read_text().splitlines()]
    assert said == [{"id": f"{i:06d}", "label": i % 4} for i in range(12)]
    scored = Scorer(str(kept), str(reference), suite, out=str(tmp_path / "scored"), device="cpu")()
    assert scored["fid"].value == found["fid"].value and scored["fid"].row.n == 12
    assert scored.record.dataset.counted() == "12 images against folder:real (n = 20)"


def test_a_batch_of_another_size_is_no_reference(suite, tmp_path, monkeypatch):
    from vtbench import reference as references

    flat_features(monkeypatch)
    monkeypatch.setattr(references, "ARRAYS", {"pool3": ("mu", "sigma", 12)})
    with open(suite, "a") as file:
        file.write(FID + FID.replace('"fid"', '"recall"'))
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, arr_0=np.zeros((8, 64, 64, 3), np.uint8), mu=np.zeros(12), sigma=np.eye(12))
    found = run(suite, tmp_path, Blots(), reference=str(path), reference_protocol="adm")
    why = {r.metric: r.why for r in found.record.rows}
    assert why["fid"] == why["recall"] == "VIRTUAL.npz holds images of 64 px, and the suite is at 32"
    np.savez(path, arr_0=np.zeros((8, 32, 32, 3), np.uint8))
    with pytest.raises(UsageError, match=r"VIRTUAL\.npz holds images alone, and no statistics"):
        run(suite, tmp_path, Blots(), reference=str(path), reference_protocol="adm")


def test_seeds_of_stored_images_are_refused(suite, tmp_path):
    folder = write(tmp_path / "made", [f"{i:06d}" for i in range(12)])
    with pytest.raises(UsageError, match="draws nothing"):
        over_seeds(Evaluator(suite, out=str(tmp_path / "out"), device="cpu"), Images(at=str(folder)), 2)


def test_a_command_asks_for_guidance_none_and_best_at_once():
    assert variants(["rar-b", "x:a=1"], "none,best,2", None) == [
        "rar-b:guidance=none", "rar-b", "rar-b:guidance=2", "x:a=1,guidance=none", "x:a=1", "x:a=1,guidance=2",
    ]  # fmt: skip
    assert variants(["rar-b"], None, "maskbit-12bit") == ["rar-b:decoder=maskbit-12bit"]


def test_the_decoders_rfid_stands_beside_the_gfid(tmp_path):
    rfid = record(name="vq", fid=2.0, suite="reconstruction-256")
    gfid = record(name="gen", fid=5.0, suite="generation-imagenet-256")
    gfid = gfid.model_copy(update={"model": gfid.model.model_copy(update={"params": {"decoder": "vq"}})})
    write_record(rfid, tmp_path)
    (line,) = beside([gfid], tmp_path)
    assert line == "gen:decoder=vq decodes with vq: rFID 2 (adm, imagenet-val, n = 50000)"
    assert beside([rfid], tmp_path) == []


def record(*, name, fid, suite):
    row = Row(protocol="adm", metric="fid", value=fid, n=50000, higher_is_better=False)
    return Record(
        run_id="a" * 12,
        model=ModelInfo(name=name),
        suite=SuiteInfo(name=suite, version=1),
        dataset=DatasetInfo(name="imagenet-val"),
        rows=[row],
    )


def test_generated_images_of_another_size_are_prepared_like_the_reference():
    pixels = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    view = View(resize="short-side-crop:pil:bicubic:True", size=32)
    seen = see(pixels, unmade(labels(1, 2).samples), view, truth=False)
    grid = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    small = np.asarray(Image.fromarray(grid[0]).resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32)))
    assert np.array_equal((seen[0] * 255).round().byte().permute(1, 2, 0).numpy(), small)
    native = see(pixels, unmade(labels(1, 2).samples), View(frame="source"), truth=False)
    assert np.array_equal(native[1], grid[1])


def test_a_function_in_memory_is_a_generator(suite, tmp_path):
    net = torch.nn.Linear(1, 3 * 4 * 4)
    calls = []

    def sample(given, seeds):
        calls.append((given.tolist(), seeds))
        noise = torch.stack([torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(s)) for s in seeds])
        small = net(given[:, None].float()).view(-1, 3, 4, 4) * 0 + noise.tanh()
        return torch.nn.functional.interpolate(small, (32, 32)).detach()

    model = vtbench.generator(sample, classes=4, value_range=(-1, 1), resolution=32, steps=7)
    assert model.modules()["generator"] is net and model.revision.startswith("sha256:")
    before = model.revision
    with torch.no_grad():
        net.bias += 1
    assert model.revision != before
    with open(suite, "a") as file:
        file.write('[[metrics]]\nname = "sampling_steps"\nprotocols = ["generation-costs"]\n')
    found = run(suite, tmp_path, model, keep_images="all")
    cells = {r.metric: r for r in found.record.rows}
    assert cells["sampling_steps"].value == 7 and cells["tokens_used"].why == "mine gives no tokens"
    assert [g for g, _ in calls if len(g) == 4][:3] == [[0, 1, 2, 3]] * 3
    kept = sorted((tmp_path / "out/images" / found.record.run_id).glob("*/generated/*.png"))
    wanted = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed_of(0, "000002", "generate"))).tanh()
    grey = ((wanted[0, 0, 0] + 1) / 2 * 255).round()
    assert len(kept) == 12 and np.asarray(Image.open(kept[2]))[0, 0, 0] == grey
    with pytest.raises(UsageError, match="class labels or prompts, not both"):
        vtbench.generator(sample, classes=4, prompts=True)


def test_a_function_may_give_lists_and_pillows_images_and_no_other_range(suite, tmp_path):
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    made = {
        "tensors": [torch.from_numpy(a).permute(2, 0, 1).float() / 255 for a in arrays],
        "pillows": [Image.fromarray(a) for a in arrays],
    }
    labels_ = [Condition(str(i), label=i) for i in range(4)]
    for name, given in made.items():
        found = vtbench.generator(lambda labels, seeds, given=given: given, classes=4, name=name).generate(
            labels_, seeds=[0] * 4
        )
        assert np.array_equal((found * 255).round().byte().permute(0, 2, 3, 1).numpy(), arrays)
    spread = torch.rand(12, 3, 32, 32)
    spread[..., 0, 0], spread[..., 0, 1] = 0, 1
    for slipped, low, high in ((spread * 2 - 1, "-1", "1"), (spread * 255, "0", "255")):
        model = vtbench.generator(lambda labels, seeds, x=slipped: x[: len(seeds)], classes=4)
        with pytest.raises(
            VtbenchError, match=rf"far outside its value_range \(0.0, 1.0\): they go from {low} to {high}"
        ):
            model.generate(labels_, seeds=[0] * 4)


def test_array_jobs_and_interruptions_end_with_the_same_rows(suite, tmp_path):
    whole = run(suite, tmp_path, Blots())
    model = Blots()
    for part in ("0:1", "2:3"):
        Evaluator(suite, out=str(tmp_path / "parts"), device="cpu", chunks=part)(model)
    assert model.calls == 8
    rest = Evaluator(suite, out=str(tmp_path / "parts"), device="cpu")(model)
    assert model.calls == 12 and rest.record.rows == whole.record.rows and rest.record.run_id == whole.record.run_id


def test_runs_from_other_conditions_do_not_compare(suite, tmp_path):
    balanced, random = (run(suite, tmp_path, Blots(), labels=how).record for how in ("balanced", "random"))
    same = [Entry(r.rows[0].model_copy(update={"protocol": "p"}), r) for r in (balanced, random)]
    shared = same[1].record.model_copy(update={"dataset": balanced.dataset, "protocols": balanced.protocols})
    row = same[1].row.model_copy(update={"protocol_digest": same[0].row.protocol_digest})
    assert why_not(same[0], Entry(row, shared)) == "images made from labels:balanced-4x3 and labels:random-4x3"


def test_adms_batch_gives_its_statistics_to_fid_and_its_images_to_precision(suite, tmp_path, monkeypatch):
    from vtbench import reference as references

    flat_features(monkeypatch)
    monkeypatch.setattr(references, "ARRAYS", {"pool3": ("mu", "sigma", 12)})
    with open(suite, "a") as file:
        file.write(FID + FID.replace('"fid"', '"precision"') + FID.replace('"fid"', '"recall"'))
    rng = np.random.default_rng(0)
    rows = rng.normal(0.5, 0.1, (500, 12))
    images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, arr_0=images, mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    found = run(suite, tmp_path, Blots(), reference=str(path), reference_protocol="adm")
    cells = {r.metric: r for r in found.record.rows}
    assert cells["fid"].notes["reference"] == "statistics" and cells["fid"].n == 12
    other = run(suite, tmp_path, Blots(), reference=str(path), reference_protocol="images")
    of_images = {r.metric: r for r in other.record.rows}
    assert "reference" not in of_images["fid"].notes and of_images["fid"].value != cells["fid"].value
    made = small_means(Blots(), 0)
    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0, 2)
    truth = small.flatten(1).double().numpy()
    inside = np.linalg.norm(truth[:, None] - truth[None], axis=2)
    radius = np.sort(inside, 1)[:, 3]  # the third neighbour, oneself not counted
    wanted = (np.linalg.norm(made[:, None] - truth[None], axis=2) <= radius).any(1).mean()
    assert cells["precision"].value == of_images["precision"].value == pytest.approx(wanted, abs=1e-9)
    assert cells["recall"].status == "ok" and found.record.dataset.n == 20
