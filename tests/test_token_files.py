"""`vtbench tokens`: files of tokens in three containers, texts, bad input, records, plots; perturbing passes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from vtbench.errors import BadData, UsageError
from vtbench.records import read_all
from vtbench.tokens import counts, files, text

SIZE = 64


def _ids(images: int = 120, seed: int = 0) -> np.ndarray:
    p = np.arange(1, SIZE + 1) ** -0.7
    return np.random.default_rng(seed).choice(SIZE, (images, 16), p=p / p.sum())


def _npz(path: Path, ids: Any, **more: Any) -> Path:
    np.savez(path, tokens=ids, **{"codebook_size": SIZE, "grid": [4, 4], "pixels": 4096, **more})
    return path


def _read(file: files.TokenFile) -> np.ndarray:
    return np.concatenate([part for _, part in file.blocks()])


@pytest.fixture
def small_suite(tmp_path: Path) -> Path:
    """A suite of a few quick metrics."""
    lines = ['name = "quick"', "version = 1", 'task = "reconstruct"', "[data]"]
    for metric in ("tokens_used", "entropy", "zipf_exponent", "bits_per_pixel", "heaps_slope", "idempotency"):
        protocol = "token-robustness" if metric == "idempotency" else "tokens"
        lines += ["[[metrics]]", f'name = "{metric}"', f'protocols = ["{protocol}"]']
    path = tmp_path / "quick.toml"
    path.write_text("\n".join(lines))
    return path


# ------------------------------------------------------------------------------------------------ containers


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_is_streamed_and_equals_its_array(
    tmp_path: Path, compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = _ids()
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "t.npz", tokens=ids.astype(np.uint16), codebook_size=SIZE, grid=[4, 4], ordered=True)
    monkeypatch.setattr(files, "BLOCK", 160)
    found = files.open_tokens(tmp_path / "t.npz")
    sizes = [len(part) for _, part in found.blocks()]
    assert sizes == [10] * 12
    assert (_read(found) == ids).all()
    assert (found.codebook_size, found.grid, found.ordered) == ((SIZE,), (4, 4), True)
    assert found.held is None


def test_safetensors_and_parquet_hold_the_same_tokens(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    ids = _ids()
    save_file(
        {"tokens": ids.astype(np.int32), "grid": np.array([4, 4])},
        tmp_path / "t.safetensors",
        metadata={"codebook_size": str(SIZE), "ordered": "False"},
    )
    table = pa.table({"tokens": [row.tolist() for row in ids]})
    pq.write_table(
        table.replace_schema_metadata({"codebook_size": str(SIZE), "grid": "[4, 4]"}), tmp_path / "t.parquet"
    )
    for name in ("t.safetensors", "t.parquet"):
        found = files.open_tokens(tmp_path / name)
        assert (_read(found) == ids).all()
        assert (found.codebook_size, found.grid, found.ordered) == ((SIZE,), (4, 4), False)


def test_parquet_rows_of_different_lengths_are_padded(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"tokens": [[1, 2, 3], [4], [], [5, 6]]}), tmp_path / "t.parquet")
    found = files.open_tokens(tmp_path / "t.parquet", codebook_size=(8,))
    assert _read(found).tolist() == [[1, 2, 3], [4, -1, -1], [-1, -1, -1], [5, 6, -1]]


def test_arguments_overrule_the_file(tmp_path: Path) -> None:
    found = files.open_tokens(
        _npz(tmp_path / "t.npz", _ids()), codebook_size=(128,), grid=(2, 8), pixels=99, ordered=True
    )
    assert (found.codebook_size, found.grid, found.pixels, found.ordered) == ((128,), (2, 8), 99, True)


def test_several_codebooks_take_one_size_or_one_each(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 4, (20, 16, 3))
    found = files.open_tokens(_npz(tmp_path / "a.npz", ids, codebook_size=4))
    assert found.sizes() == (4, 4, 4)
    found = files.open_tokens(_npz(tmp_path / "b.npz", ids, codebook_size=[4, 8, 16]))
    assert found.sizes() == (4, 8, 16)
    with pytest.raises(BadData, match="2 codebook sizes for tokens of 3"):
        files.open_tokens(_npz(tmp_path / "c.npz", ids, codebook_size=[4, 8]))


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("ids", "more", "told"),
    [
        (np.zeros((3, 16)), {}, "float64, not integers"),
        (np.zeros((0, 16), int), {}, "are empty"),
        (np.zeros((3, 0), int), {"grid": []}, "are empty"),
        (np.zeros(16, int), {}, r"shape \[16\]"),
        (np.zeros((3, 16), int), {"codebook_size": []}, "does not say its codebook size"),
        (np.zeros((3, 15), int), {}, "does not hold 15 positions"),
        (np.zeros((3, 16), int), {"codebook": np.zeros((5, 2))}, r"not \[64, d\]"),
        (np.zeros((3, 16), int), {"labels": np.zeros(4)}, "4 labels for 3 images"),
        (np.zeros((3, 16), int), {"parts": np.zeros((3, 4), int)}, "parts"),
    ],
)
def test_bad_files_are_refused_with_the_reason(
    tmp_path: Path, ids: np.ndarray, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadData, match=told):
        files.open_tokens(_npz(tmp_path / "t.npz", ids, **more))


def test_ragged_objects_are_not_unpickled(tmp_path: Path) -> None:
    ragged = np.empty(2, object)
    ragged[:] = [[1, 2], [3]]
    np.savez(tmp_path / "t.npz", tokens=ragged, codebook_size=8)
    with pytest.raises(BadData, match="Python objects"):
        files.open_tokens(tmp_path / "t.npz")


@pytest.mark.parametrize("name", ["t.npz", "t.safetensors", "t.parquet"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f not a container")
    with pytest.raises(BadData, match=r"that can be read|no whole"):
        files.open_tokens(tmp_path / name)


def test_a_file_cut_short_is_told_while_it_is_read(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"tokens": _ids().astype(np.int32)}, tmp_path / "t.safetensors")
    whole = (tmp_path / "t.safetensors").read_bytes()
    found = files.open_tokens(tmp_path / "t.safetensors", codebook_size=(SIZE,))
    (tmp_path / "t.safetensors").write_bytes(whole[:-640])
    with pytest.raises(BadData, match="cut short"):
        _read(found)
    with pytest.raises(BadData, match="cut short"):
        files.open_tokens(tmp_path / "t.safetensors", codebook_size=(SIZE,))


def test_other_kinds_and_missing_files_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "t.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"\.npz, \.parquet and \.safetensors"):
        files.open_tokens(tmp_path / "t.pt")
    with pytest.raises(UsageError, match="no token file"):
        files.open_tokens(tmp_path / "none.npz")
    with zipfile.ZipFile(tmp_path / "o.npz", "w") as archive:
        archive.writestr("other.npy", b"")
    with pytest.raises(BadData, match="no array 'tokens'"):
        files.open_tokens(tmp_path / "o.npz")


def test_ids_outside_the_codebook_stop_the_study(tmp_path: Path) -> None:
    from vtbench import registry
    from vtbench.suite import load_protocol

    ids = _ids()
    ids[7, 3] = SIZE
    m = files.measurements(files.open_tokens(_npz(tmp_path / "t.npz", ids)))
    with pytest.raises(BadData, match="token id 64 is outside the codebook of 64"):
        list(registry.metric("entropy").compute(m, load_protocol("tokens").fields(64)))


# ------------------------------------------------------------------------------------------------ the command


def _invoke(*arguments: str) -> Any:
    import typer

    from vtbench.cli.tokens import tokens

    app = typer.Typer()
    app.command()(tokens)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_a_file_becomes_a_record_a_table_and_plots(tmp_path: Path, small_suite: Path) -> None:
    pytest.importorskip("matplotlib")
    file, out = _npz(tmp_path / "mine.npz", _ids()), tmp_path / "out"
    arguments = (
        "--tokens",
        str(file),
        "--suite",
        str(small_suite),
        "--out",
        str(out),
        "--plots",
        str(tmp_path / "plots"),
        "--json",
    )
    done = _invoke(*arguments)
    assert done.exit_code == 0
    lines = {(line["metric"], line["slice"]): line for line in json.loads(done.stdout)}
    entropy = lines["entropy", "all"]
    assert entropy["model"] == "mine"
    assert entropy["dataset"] == "tokens:mine"
    assert entropy["revision"] == files.digest(file)
    assert entropy["ci_low"] < entropy["value"] < entropy["ci_high"]
    assert (entropy["tokens"], entropy["bpp"], entropy["resolution"]) == (16, 6 * 16 / 4096, 64)
    assert lines["tokens_used", "all"]["value"] == 16
    assert lines["idempotency", "all"]["status"] == "skipped"
    (record,), problems = read_all(out)
    assert not problems
    assert (out / "table.csv").is_file()
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"zipf-exponent.png", "heaps-slope.png"}
    again = _invoke(*arguments)
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert len(read_all(out)[0]) == 1
    assert record.rows


def test_a_text_is_studied_as_bytes_and_as_words(tmp_path: Path, small_suite: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("the cat sat on the mat, and the dog did not. " * 300)
    as_bytes = text.open_text(book)
    assert as_bytes.codebook_size == (256,)
    assert bytes(_read(as_bytes)[0].astype(np.uint8)) == book.read_bytes()[:256]
    as_words = text.open_text(book, "words")
    assert as_words.codebook_size == (9,)
    done = _invoke("--text", str(book), "--suite", str(small_suite), "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0
    lines = {(line["metric"], line["slice"]): line for line in json.loads(done.stdout)}
    assert lines["bits_per_pixel", "all"]["status"] == "skipped"
    seen = np.bincount(np.frombuffer(book.read_bytes(), np.uint8))
    p = seen[seen > 0] / seen.sum()
    assert lines["entropy", "all"]["value"] == pytest.approx(-(p * np.log2(p)).sum(), abs=0.02)
    book.write_bytes(b"")
    with pytest.raises(BadData, match="no text"):
        text.open_text(book)
    book.write_bytes(b"\xff\xfe")
    with pytest.raises(BadData, match="not UTF-8"):
        text.open_text(book, "words")


def test_nothing_to_study_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nothing to study"):
        _invoke()


def test_memory_is_flat_in_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    from vtbench import registry
    from vtbench.suite import load_protocol

    monkeypatch.setattr(files, "BLOCK", 1 << 15)
    monkeypatch.setattr(counts, "BATCH", 1 << 15)
    fields = {**load_protocol("tokens").fields(64), "sample_tokens": 1 << 16}
    peaks = []
    for images in (1 << 14, 1 << 17):
        path = tmp_path / f"{images}.npz"
        np.savez(
            path, tokens=np.random.default_rng(0).integers(0, SIZE, (images, 16), dtype=np.uint8), codebook_size=SIZE
        )
        m = files.measurements(files.open_tokens(path))
        tracemalloc.start()
        for name in ("entropy", "heaps_slope", "entropy_per_position"):
            list(registry.metric(name).compute(m, fields))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Eight times the images and 2 MB more of ids in the file (15 MB as int32): only a few bytes an image may grow.
    assert peaks[1] < peaks[0] + 5_000_000, peaks


# ------------------------------------------------------------------------------------------------ perturbing passes


def test_perturbed_images() -> None:
    torch = pytest.importorskip("torch")
    from vtbench import perturb
    from vtbench.api import INPUT, Pass

    pixels = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    moved = perturb.images(pixels, Pass("shift", INPUT, (("dx", 3), ("dy", -2))), [0, 1])
    assert torch.equal(moved[:, :, :-2, 3:], pixels[:, :, 2:, :-3])
    assert torch.equal(moved[:, :, :-2, :3], pixels[:, :, 2:, :1].expand(-1, -1, -1, 3))
    noisy = perturb.images(pixels * 0.5 + 0.25, Pass("noise", INPUT, (("sigma", 0.05),)), [7, 8])
    assert float((noisy - pixels * 0.5 - 0.25).std()) == pytest.approx(0.05, rel=0.1)
    again = perturb.images(pixels[1:] * 0.5 + 0.25, Pass("noise", INPUT, (("sigma", 0.05),)), [8])
    assert torch.equal(again, noisy[1:])
    grey = torch.full((1, 3, 16, 16), 0.5)
    assert float((perturb.images(grey, Pass("jpeg", INPUT, (("quality", 75),)), [0]) - grey).abs().max()) < 0.01


def test_perturbed_tokens_become_near_neighbours() -> None:
    torch = pytest.importorskip("torch")
    from vtbench import perturb
    from vtbench.api import OUTPUT, Pass, Stream, Tokenizer, Tokens
    from vtbench.errors import VtbenchError

    class Line(Tokenizer):
        name = "line"

        def codebook(self) -> np.ndarray | None:
            return np.arange(32, dtype=np.float32)[:, None]

    ids = torch.full((2, 500), 16)
    tokens = Tokens((Stream("t", "index", "seq1d", (32,), (500,)),), {"t": ids}, 2)
    changed = perturb.tokens(tokens, Pass("decode", OUTPUT, (("alpha", 0.5), ("delta", 3))), Line(), [1, 2]).data["t"]
    assert set(changed.unique().tolist()) == {15, 16, 17}
    assert float((changed != ids).float().mean()) == pytest.approx(0.5 * 2 / 3, abs=0.05)
    assert torch.equal(ids, torch.full((2, 500), 16))
    none = perturb.tokens(tokens, Pass("decode", OUTPUT, (("alpha", 0.0), ("delta", 3))), Line(), [1, 2]).data["t"]
    assert torch.equal(none, ids)
    with pytest.raises(VtbenchError, match="no codebook"):
        perturb.tokens(tokens, Pass("decode", OUTPUT, (("alpha", 0.5), ("delta", 3))), Tokenizer(), [1, 2])


def test_neighbours_equal_a_full_sort() -> None:
    pytest.importorskip("torch")
    from vtbench.perturb import neighbours

    book = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    distance = ((book[:, None] - book[None]) ** 2).sum(axis=2)
    assert (neighbours(book, 4) == np.argsort(distance, axis=1, kind="stable")[:, :4]).all()
    assert (neighbours(book, 4)[:, 0] == np.arange(50)).all()
