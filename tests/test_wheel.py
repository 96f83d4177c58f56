"""The wheel holds exactly what it should, and works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOVED = {"metrics": "vtbench/metrics", "suites": "vtbench/suites", "results/published": "vtbench/published"}


def _tracked() -> set[str]:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return set(done.stdout.split())


def test_the_wheel_carries_every_tracked_file_and_works_alone(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    tracked = _tracked()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = {n for n in tracked if n.startswith("vtbench/")}
    for here, there in MOVED.items():
        expected |= {there + n.removeprefix(here) for n in tracked if n.startswith(f"{here}/")}
    assert expected <= names, f"missing from the wheel: {sorted(expected - names)[:5]}"
    strays = {n for n in names - expected if "__pycache__" not in n}
    tracked_only = not subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout
    if tracked_only:
        assert not strays, f"strays in the wheel: {sorted(strays)[:5]}"
    assert not any("__pycache__" in n or n == "vtbench/metrics/__init__.py/" for n in names)

    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    (tmp_path / "metrics").mkdir()  # a foreign package of the same name on the path
    (tmp_path / "metrics" / "__init__.py").write_text("raise RuntimeError('imported a foreign package')\n")
    code = (
        "import vtbench, vtbench.registry as r, vtbench.suite as s, vtbench.table as t;"
        f"assert vtbench.__file__.startswith({str(site)!r});"
        "assert 'psnr' in r.metrics() and 'demo' in s.suite_names() and t.published()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
