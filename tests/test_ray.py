"""A local Ray gives the rows of one process, bit for bit, whatever happens to its workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_crew import _write

import vtbench


def test_a_local_ray_with_one_chunk_more_than_divides(tmp_path: Path, photos: Path) -> None:
    ray = pytest.importorskip("ray")
    (photos / "image_09.png").unlink()  # nine images in chunks of two, for two workers: five chunks
    spec, suite = _write(tmp_path / "model")  # kills the worker that first sees the third chunk
    how = {"data": str(photos), "batch_size": 2, "device": "cpu"}
    many = vtbench.evaluate(spec, [suite], out=str(tmp_path / "ray"), engine="ray", workers=2, **how)
    assert not ray.is_initialized() and (tmp_path / "model" / "once").exists()
    one = vtbench.evaluate(spec, [suite], out=str(tmp_path / "one"), **how)
    assert many.record.rows == one.record.rows
    by = many.record.environment.more["chunks_by_worker"]
    assert sum(by.values()) == 5 and set(by) <= {"worker 0 (ray, cpu)", "worker 1 (ray, cpu)"}


def test_credentials_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtbench.engine.actors import _passed_on

    for name in ("HF_TOKEN", "VTBENCH_API_KEY", "HF_HOME", "VTBENCH_WEIGHTS", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    assert set(_passed_on()) >= {"HF_HOME", "VTBENCH_WEIGHTS"}
    assert not {"HF_TOKEN", "VTBENCH_API_KEY", "AWS_SECRET_ACCESS_KEY"} & set(_passed_on())
