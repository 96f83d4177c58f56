"""Text as tokens, so that the same statistics can be read beside natural language."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from vtbench.errors import BadData, UsageError
from vtbench.tokens.files import TokenFile

PIECE = 256
"""Tokens of a piece: what an image is to a tokenizer, a piece is to a text."""


def open_text(path: str | Path, unit: Literal["bytes", "words"] = "bytes") -> TokenFile:
    """A text file as sequences of 256 tokens: int32 ``[pieces, 256]``, -1 after the end.

    bytes: K = 256, so bits per token are bits per byte. words: runs of letters, digits and apostrophes in lower case, in UTF-8; K is the
    number of different words in this text, since a language has no last word. Raises `BadData` for an empty file or, for words, one
    that is not UTF-8."""
    where = Path(path)
    if not where.is_file():
        raise UsageError(f"no text file {where}")
    data = where.read_bytes()
    if unit == "bytes":
        ids = np.frombuffer(data, np.uint8).astype(np.int32)
        size = 256
    elif unit == "words":
        ids, size = _words(data, where)
    else:
        raise UsageError(f"a text is read as bytes or words, not '{unit}'")
    if not ids.size:
        raise BadData(f"{where} holds no text")
    rows = -(-ids.size // PIECE)
    held = np.full(rows * PIECE, -1, np.int32)
    held[: ids.size] = ids
    pieces = held.reshape(rows, PIECE)
    return TokenFile(where, pieces.shape, pieces.dtype, (size,), name=f"{where.stem}-{unit}", held=pieces)


def _words(data: bytes, where: Path) -> tuple[np.ndarray, int]:
    import re

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{where} is not UTF-8: {error.reason} at byte {error.start}", "Read it as bytes") from error
    number: dict[str, int] = {}
    ids = [number.setdefault(word, len(number)) for word in re.findall(r"[\w']+", text.lower())]
    return np.array(ids, np.int32), max(1, len(number))
