"""Which failures of a device are worth another try: memory that ran out is, a device that did something illegal is not."""

from __future__ import annotations

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
