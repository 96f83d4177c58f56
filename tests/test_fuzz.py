"""What fuzz.py found, as small named cases, and a few hundred of its cases on every run."""

from __future__ import annotations

import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import fuzz
import numpy as np
import pytest
from records_for_tests import make

from vtbench import baseline, npz, parse
from vtbench.check import check
from vtbench.data import open_dataset
from vtbench.errors import BadData, BadWeights, UsageError, VtbenchError
from vtbench.records import read_all
from vtbench.reference import read_statistics
from vtbench.suite import load_suite
from vtbench.table import read_csv
from vtbench.tokens.files import open_tokens
from vtbench.weights import read_state
from vtbench.zoo.card import Card

DEEP = "[" * 100_000 + "]" * 100_000
SUITE = 'name = "s"\nversion = 1\ntask = "reconstruct"\n'
METRIC = '[[metrics]]\nname = "psnr"\nprotocols = ["vtbench"]\n'


@pytest.mark.parametrize("name", sorted(fuzz.READERS))
def test_a_few_cases_of_every_reader(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vtbench import reference

    monkeypatch.setattr(reference, "ARRAYS", dict(reference.ARRAYS))  # the fuzzer makes them small
    monkeypatch.chdir(tmp_path)
    count, found = fuzz.run(name, 0, iter(range(12)), time.monotonic() + 60)
    assert count == 12
    assert not found, found[0].trace


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SUITE.replace("version = 1", "version = nan") + METRIC, "'version' must be a whole number"),
        (SUITE + "resolutions = 5\n" + METRIC, "'resolutions' must be a list"),
        (SUITE + "resolutions = [-1]\n" + METRIC, "at least 0"),
        (SUITE + "chunk = inf\n" + METRIC, "'chunk' must be a whole number"),
        (SUITE + 'data = 3\n' + METRIC, "'data' must be a table"),
        (SUITE + "metrics = 1\n", "'metrics' must be a list"),
        (SUITE + '[[metrics]]\nprotocols = ["vtbench"]\n', "needs its name"),
        (SUITE + '[[metrics]]\nname = "psnr"\nprotocols = []\n', "at least one protocol"),
        (SUITE + '[[metrics]]\nname = ["psnr"]\nprotocols = ["vtbench"]\n', "'name' must be text"),
        (SUITE + METRIC + 'recommended = "clean"\n', "recommended protocol"),
        (SUITE + '[[metrics]]\nname = "psnr"\nprotocols = ["' + "x" * 5000 + '"]\n', "unknown protocol"),
        (f"a = {DEEP}", "nested too deeply"),
        ("a = " + "9" * 5000, "is not a TOML file"),
    ],
)  # fmt: skip
def test_suites(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_suite(str(tmp_path / "s.toml"))


def test_a_protocol_with_a_field_of_another_type(tmp_path: Path) -> None:
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.toml").write_text('name = "mine"\nmetrics = ["psnr"]\n[view]\nquantise = 5\n')
    (tmp_path / "s.toml").write_text(SUITE + METRIC.replace("vtbench", "mine"))
    with pytest.raises(UsageError, match="'quantise' is of the type str, not int"):
        load_suite(str(tmp_path / "s.toml"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[tolerances]", "[tolerances]\npsnr = 3"), ("[tolerances]", '[tolerances]\npsnr = {abs = "x"}'), ('metric = "psnr"', "metric = 5"),
        ("resolution = 256", "resolution = []"), ('slice = "all"', "slice = 1.5"), ('protocol = "rgb8"', "protocol = {}"),
        ("\nvalue = ", '\nvalue = "x"\nold = '), ("version = 1", "version = 1\nrows = 5\n[x]"),
    ],
)  # fmt: skip
def test_baselines(tmp_path: Path, old: str, new: str) -> None:
    records = [make(n=5)]
    path = tmp_path / "b.toml"
    baseline.update(records, path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(baseline.BaselineError):
        check(records, baseline.load(path), path)


def test_nested_json_is_no_record_and_no_annotation(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "a.json").write_text(DEEP)
    _, (problem,) = read_all(tmp_path)
    assert "a.json" in str(problem)
    with pytest.raises(BadData, match="nested too deeply"):
        parse.loads_json(tmp_path / "records" / "a.json", BadData)


def test_a_card_with_fields_of_other_types() -> None:
    for table in (
        {"name": "x", "route": {}},
        {"name": "x", "files": [3]},
        {"name": "x", "packages": "numpy"},
        {"name": "x", "bits": "many"},
    ):
        with pytest.raises(UsageError):
            Card.from_table(table, "x")


# ------------------------------------------------------------------------------------------------ arrays


def _claiming(shape: str, dtype: str = "<f8", body: bytes = b"") -> bytes:
    """The .npy of an array that says of itself what it likes."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + body


def _archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


CLAIMS = {
    "terabytes": (_claiming("(9999999999999,)"), "bytes"),
    "more than its member": (_claiming("(100,)", body=bytes(80)), "cut short"),
    "negative": (_claiming("(-1,)"), "shape|cannot be read"),
    "open bracket": (_claiming("(1,").replace(b"}", b" "), "no array"),
    "no text": (_claiming("(1,)", "<U1", b"\xff\xff\xff\x7f"), "no Unicode"),
    "objects": (_claiming("(1,)", "|O", b"\x80\x04N."), "never executed"),
    "another version": (_claiming("(1,)").replace(b"\x01\x00", b"\x09\x00", 1), "no array"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_arrays_that_claim_what_they_do_not_have(tmp_path: Path, name: str) -> None:
    content, said = CLAIMS[name]
    path = _archive(tmp_path / "x.npz", a=content)
    with pytest.raises(BadData, match=said):
        npz.load(path)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_reader_of_npz_refuses_them(tmp_path: Path, name: str) -> None:
    content, _ = CLAIMS[name]
    readers: dict[str, Callable[[str], object]] = {
        "arr_0": lambda p: open_dataset(p), "tokens": lambda p: open_tokens(p, codebook_size=(4,)), "mu": lambda p: read_statistics(p, "clean"),
    }  # fmt: skip
    for member, read in readers.items():
        with pytest.raises(VtbenchError):
            read(str(_archive(tmp_path / "x.npz", **{member: content})))


def test_labels_that_claim_terabytes(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.save(held, np.zeros((1, 8, 8, 3), np.uint8))
    path = _archive(tmp_path / "x.npz", arr_0=held.getvalue(), arr_1=_claiming("(9999999999999,)", "<i8"))
    with pytest.raises(BadData, match="bytes"):
        open_dataset(str(path))


# ------------------------------------------------------------------------------------------------ tokens, weights


def _safetensors(header: object, body: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "header",
    [
        [], {"tokens": 3}, {"tokens": {"dtype": "I64"}}, {"tokens": {"dtype": "I64", "shape": [2, 4], "data_offsets": [0]}},
        {"tokens": {"dtype": "I64", "shape": [-2, -4], "data_offsets": [0, 64]}}, {"tokens": {"dtype": "I64", "shape": [2, 2**40], "data_offsets": [0, 64]}},
        {"tokens": {"dtype": "I64", "shape": [2, 4], "data_offsets": [10**15, 10**15 + 64]}}, {"__metadata__": 3},
        {"__metadata__": {"grid": 5}, "tokens": {"dtype": "I64", "shape": [2, 4], "data_offsets": [0, 64]}},
        {"__metadata__": {"codebook_size": "[[1], [2, 3]]"}, "tokens": {"dtype": "I64", "shape": [2, 4], "data_offsets": [0, 64]}},
        {"__metadata__": {"codebook_size": "\"many\""}, "tokens": {"dtype": "I64", "shape": [2, 4], "data_offsets": [0, 64]}},
    ],
    ids=str,
)  # fmt: skip
def test_headers_of_safetensors(tmp_path: Path, header: object) -> None:
    (tmp_path / "t.safetensors").write_bytes(_safetensors(header))
    with pytest.raises(BadData):
        open_tokens(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    "index", [5, {"weight_map": [1]}, {"weight_map": {"a": 3.5}}, {"weight_map": {"a": "x" * 400}}, {}]
)
def test_an_index_of_shards(tmp_path: Path, index: object) -> None:
    path = tmp_path / "w.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(VtbenchError):
        read_state(path)


def test_a_checkpoint_whose_pickle_asks_for_terabytes(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"\x80\x02X\xff\xff\xff\x7fabc.")
    with pytest.raises(BadWeights):
        read_state(tmp_path / "w.pth")


# ------------------------------------------------------------------------------------------------ data


def test_names_that_no_file_system_takes(tmp_path: Path) -> None:
    for folder in ("images/text_data/ic13", "annotations"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "annotations" / "text_ic13.json").write_text(
        json.dumps([{"file_name": "é" * 300 + ".png", "annotations": []}])
    )
    with pytest.raises(BadData, match="missing"):
        open_dataset(str(tmp_path), reader="tokbench")


def test_a_line_of_the_digest_cache_with_infinity(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").write_bytes(fuzz.picture())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "digests-v1.jsonl").write_text(
        f'["a", {math.inf}, 1, "{"0" * 64}", "png"]\n{DEEP}\n'.replace("inf", "Infinity")
    )
    assert len(open_dataset(str(tmp_path / "x"), cache=tmp_path / "cache")) == 1


@pytest.mark.parametrize("state", [5, {"_data_files": 3}, {"_data_files": [3]}])
def test_the_state_of_a_saved_dataset(tmp_path: Path, state: object) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(BadData):
        open_dataset(f"hf:{tmp_path}")


def test_a_table_that_is_not_text(tmp_path: Path) -> None:
    from vtbench.table import COLUMNS

    (tmp_path / "t.csv").write_bytes(",".join(COLUMNS).encode() + b"\n\xac,\xff\n")
    with pytest.raises(BadData, match="line"):
        read_csv(tmp_path / "t.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on memory")
def test_the_fuzzer_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that hangs, one that raises something else and one that runs a pickle are all found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "LIMIT_SECONDS", 0.2)

    def reader(read: Callable[[Path], object]) -> fuzz.Reader:
        return fuzz.Reader(lambda: [{"x.json": b"{}"}], read, {".json": fuzz.of_json})

    def hang(where: Path) -> None:
        while True:
            pass

    harms = {"hang": hang, "raise": lambda where: 1 / 0, "run": lambda where: Path(fuzz.PWNED).touch()}
    for name, harm in harms.items():
        monkeypatch.setitem(fuzz.READERS, name, reader(harm))
        _, found = fuzz.run(name, 0, iter(range(1)), time.monotonic() + 30)
        assert len(found) == 1, name
        Path(fuzz.PWNED).unlink(missing_ok=True)
