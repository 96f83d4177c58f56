"""docs/adding.md, followed literally: its files written out, its command run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOC = Path(__file__).parent.parent / "docs" / "adding.md"


def test_the_page_works_as_it_stands(tmp_path: Path, photos: Path) -> None:
    text = DOC.read_text()
    files = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, re.S)
    assert {name for name, _ in files} == {"thumbnails.toml", "brightness_shift.py", "my_model.py"}
    for name, body in files:
        (tmp_path / name).write_text(body)
    (line,) = re.findall(r"^    (VTBENCH_PLUGINS=.*)$", text, re.M)
    words = shlex.split(line.replace("PHOTOS", str(photos)))
    plugin, command = words[0].partition("=")[2], words[2:]
    environment = {**os.environ, "VTBENCH_PLUGINS": str(tmp_path / plugin)}
    done = subprocess.run(
        [sys.executable, "-m", "vtbench", *command, "--json", "--device", "cpu"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    by_model = {(r["model"], r["metric"]): r for r in rows}
    assert by_model["grey", "psnr"]["tokens"] == 64 * 64
    assert by_model["grey", "psnr"]["bpp"] == pytest.approx(3.0)
    assert abs(by_model["grey", "brightness_shift"]["value"]) < 5
    assert by_model["resize", "brightness_shift"]["value"] == 0
