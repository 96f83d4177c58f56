"""Records: what is written is read back, and what cannot be read is named."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from records_for_tests import make

from vtbench import record as one
from vtbench import records
from vtbench.errors import BadRecord, UnknownName
from vtbench.record import DatasetInfo, ModelInfo, Record, Row, SuiteInfo, run_id


def minimal(**changes) -> Record:
    fields = {
        "run_id": "abcdef012345",
        "model": ModelInfo(name="m"),
        "suite": SuiteInfo(name="s", version=1),
        "dataset": DatasetInfo(name="d"),
        **changes,
    }
    return Record(**fields)


def test_a_written_record_reads_back_equal(tmp_path):
    record = make(tmp_path, tokens=(64, 256))
    assert one.read(tmp_path / "records" / f"{record.run_id}.json") == record


def test_infinite_and_nan_numbers_are_strings_in_json_and_numbers_in_python(tmp_path):
    row = Row(protocol="p", metric="psnr", value=np.float32(np.inf), ci_low=-math.inf, ci_high=math.nan, n=np.int64(3))
    path = one.write(minimal(rows=[row], options={"x": np.float64("nan")}), tmp_path)
    raw = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [raw["rows"][0][k] for k in ("value", "ci_low", "ci_high")] == ["inf", "-inf", "nan"]
    back = one.read(path).rows[0]
    assert back.value == math.inf
    assert back.ci_low == -math.inf
    assert math.isnan(back.ci_high)
    assert raw["options"]["x"] == "nan"


def test_a_record_on_disk_fits_the_schema(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    record = make()
    record.rows[0].value = math.inf
    validator = jsonschema.Draft202012Validator(one.schema())
    raw = json.loads(one.dumps(record))
    validator.validate(raw)
    raw["surprise"] = 1
    assert not validator.is_valid(raw)


def test_two_equal_rows_are_refused():
    row = Row(protocol="p", metric="psnr", value=1.0)
    with pytest.raises(ValueError, match="two rows of psnr"):
        minimal(rows=[row, row.model_copy(update={"value": 2.0})])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema_version": 1, "run_id": "a', "damaged"),
        ("", "damaged"),
        ('{"schema_version": 0, "run_id": "a"}', "older than 1"),
        ('{"run_id": "a"}', "older than 1"),
        ('{"schema_version": 2, "run_id": "a"}', "Update vtbench"),
        ('{"schema_version": 1, "run_id": "a"}', "model"),
        ("[1, 2]", "not a record"),
        ('{"a": 1}', "not a record"),
    ],
)
def test_a_bad_record_says_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadRecord, match=said):
        one.read(path)


def test_a_damaged_record_is_named_and_the_rest_goes_on(tmp_path):
    good = make(tmp_path)
    other = make(tmp_path, "other", seed=1)
    path = tmp_path / "records" / f"{good.run_id}.json"
    path.write_bytes(path.read_bytes()[:500])
    found, problems = records.read_all(tmp_path)
    assert [r.run_id for r in found] == [other.run_id]
    assert len(problems) == 1
    assert path.name in str(problems[0])


def test_an_empty_store_is_no_error(tmp_path):
    assert records.read_all(tmp_path / "nowhere") == ([], [])


def test_the_run_id_follows_what_moves_a_value_and_nothing_else():
    base = ("m", "sha256:1", {"a": 1, "b": 2}, "d", "r", {"limit": 3})
    assert run_id(*base) == run_id("m", "sha256:1", {"b": 2, "a": 1}, "d", "r", {"limit": 3})
    changed = [
        ("n", *base[1:]),
        (*base[:2], {"a": 2, "b": 2}, *base[3:]),
        (*base[:5], {"limit": 4}),
        (*base[:4], "q", base[5]),
    ]
    ids = {run_id(*base), *(run_id(*c) for c in changed)}
    assert len(ids) == 5
    assert all(len(i) == 12 and i[0] in "abcdef" and int(i, 16) >= 0 for i in ids)


def test_a_failed_write_leaves_the_old_record_and_no_litter(tmp_path, monkeypatch):
    record = make(tmp_path)
    before = (tmp_path / "records" / f"{record.run_id}.json").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        one.write(record, tmp_path)
    assert [p.read_bytes() for p in (tmp_path / "records").iterdir()] == [before]


def test_a_record_is_found_by_id_prefix_name_or_path(tmp_path):
    record = make(tmp_path, "jpeg", params={"quality": 30})
    latest = make(tmp_path, "jpeg", params={"quality": 50}, seed=2)
    assert records.find(tmp_path, record.run_id[:6]) == record
    assert records.find(tmp_path, "jpeg:quality=30") == record
    assert records.find(tmp_path, "jpeg") == latest
    assert records.find(tmp_path, str(tmp_path / "records" / f"{record.run_id}.json")) == record
    with pytest.raises(UnknownName, match="jpeg"):
        records.find(tmp_path, "jpg")


def test_a_thousand_records_are_read_in_under_two_cpu_seconds(tmp_path):
    record = make(tokens=(16, 64, 256), seed=1)
    text = one.dumps(record)
    (tmp_path / "records").mkdir()
    for i in range(1000):
        (tmp_path / "records" / f"a{i:011d}.json").write_text(text.replace(record.run_id, f"a{i:011d}"))
    start = time.process_time()
    found, _ = records.read_all(tmp_path)
    assert len(found) == 1000
    assert time.process_time() - start < 2.0


def test_reading_records_imports_neither_torch_nor_pandas():
    code = "import sys, vtbench.record, vtbench.table, vtbench.report.terminal, vtbench.samples, vtbench.intervals; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas", "pyarrow", "scipy", "matplotlib"} & set(loaded)
