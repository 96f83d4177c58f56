"""What a command does to its process's allocator: freed blocks are kept, so that the next batch finds its pages made."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, numpy
from vtbench.memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(16 << 20, "float32")  # 64 MB: above what glibc keeps by itself
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def _faults(how: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0", **environment},
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="needs Linux with glibc",
)
def test_freed_memory_is_kept_unless_the_user_has_chosen() -> None:
    assert _faults("keep") < 100
    assert _faults("keep", MALLOC_TRIM_THRESHOLD_="131072") > 1000
