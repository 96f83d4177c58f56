"""What a command does to its process's allocator: freed blocks are kept, so that the next batch finds its pages made."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

PROGRAM = """
import numpy
from contextlib import nullcontext
from pathlib import Path
from vtbench.memory import freed_is_kept, giving_back, keep_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed()
print(freed_is_kept())
for how in (giving_back, nullcontext):
    with how():
        before = resident()
        numpy.ones(64 << 20, "float32")  # 256 MB, above what glibc keeps by itself
        print((resident() - before) >> 20)
"""


def _said(**environment: str) -> tuple[bool, int, int]:
    """Whether freed memory is kept, and by how many MB the process has grown after a block of 256: inside and outside of `giving_back`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    kept, inside, outside = done.stdout.split()
    return kept == "True", int(inside), int(outside)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="needs Linux with glibc",
)
def test_freed_memory_is_kept_unless_the_user_has_chosen() -> None:
    kept, inside, outside = _said()
    assert kept and inside < 50 and outside > 200
    kept, inside, outside = _said(MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept and inside < 50 and outside < 50
