"""The command line at start: quick by what it does not import, and every command has help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vtbench.cli import COMMANDS

HEAVY = ("torch", "pandas", "numpy", "pydantic", "PIL", "scipy", "pyarrow", "matplotlib", "transformers")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['vtbench', '--help']\n"
        "from vtbench.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("arguments", [["nonsense"], ["reconstruct"], ["reconstruct", "--model", "tiny", "--nonsense"]])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "vtbench", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
