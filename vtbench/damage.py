"""What the libraries that take files apart raise when a file is damaged, or made to harm."""

from __future__ import annotations

import pickle
import struct
import tokenize
import zipfile
import zlib

BROKEN: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    BufferError,
    MemoryError,
    SystemError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    pickle.PickleError,
    tokenize.TokenError,
)
"""Errors of Pillow, NumPy, zipfile, torch, safetensors and pyarrow on damaged files. To be caught around one call that reads one file."""


def reason(error: BaseException) -> str:
    """The first line of an error's own words, short; its type's name when it says nothing."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (text if len(text) <= 200 else f"{text[:200]}...") or type(error).__name__
