"""Which failures of a device are worth another try: memory that ran out is, a device that did something illegal is not. And memory that is kept."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = ("out of memory", "can't allocate memory", "alloc_failed", "not enough memory", "cannot allocate memory")
_POISONED = (
    "illegal memory access",
    "device-side assert",
    "misaligned address",
    "illegal instruction",
    "unspecified launch failure",
    "uncorrectable ecc",
    "illegal address",
)


def _lines(error: BaseException) -> list[str]:
    """What an error and its causes say, in lower case."""
    said: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(said) < 10:
        said.append(str(seen).lower())
        seen = seen.__cause__
    return said


def poisoned(error: BaseException) -> bool:
    """Whether a device's context is broken: whatever this process computes there from now on fails or, worse, is wrong."""
    return any(sign in line for line in _lines(error) for sign in _POISONED)


def full(error: BaseException) -> bool:
    """Whether memory ran out (of a CUDA device, of cuBLAS or cuDNN on it, or of the machine), so that a smaller batch may do."""
    if poisoned(error):
        return False
    import torch

    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in line for line in _lines(error) for sign in _FULL)


def keep_freed() -> None:
    """Let this process keep the memory that it frees, for the next batch; on Linux's glibc alone, and unless ``MALLOC_*`` variables say otherwise.

    glibc returns every block above 32 MB to the system at once, and the pages of the next one are made and zeroed anew: half the time of a
    convolutional tokenizer on a CPU. In exchange the most that is held grows, by a third to two thirds of it. A choice for a whole
    process: the command and its workers make it, the library never does."""
    global _kept
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")):
        return
    _kept = _thresholds(*_KEEPING)


def freed_is_kept() -> bool:
    """Whether `keep_freed` took effect: what it changes are speed and peak memory on a CPU."""
    return _kept


@contextmanager
def giving_back() -> Iterator[None]:
    """Inside, freed memory goes back to the system as in other processes: for measuring what a model takes."""
    if not _kept:
        yield
        return
    _thresholds(*_GIVING_BACK)
    try:
        yield
    finally:
        _thresholds(*_KEEPING)


_kept = False
_KEEPING = 1 << 30, (1 << 31) - 1
_GIVING_BACK = 32 << 20, 64 << 20
"""Bytes of a block from which on it is mapped apart, and of the heap's free end from which on it is given back: what glibc comes to by itself."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What `mallopt` sets, as malloc.h numbers it."""


def _thresholds(mapped: int, trimmed: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, mapped) and mallopt(_TRIM_THRESHOLD, trimmed))
