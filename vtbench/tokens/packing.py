"""What general-purpose compressors and byte-pair merges make of token ids. Real bytes, of a sample of stated size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import numpy as np

from vtbench.errors import MissingPackage


def layouts(ids: np.ndarray, size: int) -> dict[str, bytes]:
    """A sequence of ids ``[N]`` as bytes: `u16` (or `u32`), `bits` (ceil(log2 K) bits each), `split` (all high bytes, then all low)."""
    kind = "<u2" if size <= 1 << 16 else "<u4"
    plain = ids.astype(kind)
    width = max(1, (size - 1).bit_length())
    shifts = np.arange(width - 1, -1, -1)
    bits = ((ids[:, None] >> shifts) & 1).astype(np.uint8)
    planes = plain.view(np.uint8).reshape(-1, plain.itemsize)
    return {
        f"u{8 * plain.itemsize}": plain.tobytes(),
        "bits": np.packbits(bits).tobytes(),
        "split": np.ascontiguousarray(planes.T).tobytes(),
    }


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    """gzip -9, bzip2 -9, xz (lc 0, lp 1, pb 1: for 16-bit symbols) and, where installed, zstd -19."""
    import bz2
    import lzma
    import zlib

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 1}]
    out: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: zlib.compress(data, 9),
        "bz2": lambda data: bz2.compress(data, 9),
        "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, filters=filters),
    }
    try:
        import zstandard
    except ImportError:
        return out
    out["zstd"] = zstandard.ZstdCompressor(level=19).compress
    return out


def compressed_bits(ids: np.ndarray, size: int) -> dict[tuple[str, str], float]:
    """Bits a token of every (compressor, layout), for a sequence ``[N]``."""
    data = layouts(ids, size)
    tools = compressors()
    return {(c, kind): 8 * len(tool(d)) / len(ids) for c, tool in tools.items() for kind, d in data.items()}


def adaptive_bits(counts: np.ndarray) -> float:
    """Bits a token of an adaptive order-0 range coder that starts knowing nothing (Krichevsky and Trofimov's estimator, 1981): the ideal
    code length, which depends on the counts only and which a 32-bit range coder meets within about 0.01 %."""
    from scipy.special import gammaln

    n, size = float(counts.sum()), counts.size
    if not n:
        return math.nan
    kept = counts[counts > 0]
    log_p = gammaln(size / 2) - gammaln(n + size / 2) + (gammaln(kept + 0.5) - gammaln(0.5)).sum()
    return float(-log_p / math.log(2) / n)


def bpe_tokens(train: np.ndarray, test: np.ndarray, size: int, merges: Sequence[int]) -> list[float]:
    """Byte-pair merges learnt on images ``[M, N]`` and applied to others: tokens left per token, one number a number of merges.

    Every id is one character (surrogates skipped), every image one word. Raises `MissingPackage` without `tokenizers`."""
    try:
        from tokenizers import Tokenizer, models, trainers
    except ImportError as error:
        raise MissingPackage("tokenizers", "tokens", "the metric bpe_saving") from error
    seen = int((np.bincount(train[train >= 0], minlength=1) > 0).sum())
    texts = [_text(row) for row in train]
    held = [_text(row) for row in test]
    before = sum(len(t) for t in held)
    alphabet = [chr(c) for c in _points(np.unique(test[test >= 0]))]
    # Every symbol is in the alphabet from the start, so the vocabulary beyond it is merges; they are learnt in order, so fewer merges
    # are a prefix of more.
    tokenizer = Tokenizer(models.BPE())
    symbols = len(set(alphabet) | {chr(c) for c in _points(np.unique(train[train >= 0]))})
    trainer = trainers.BpeTrainer(
        vocab_size=max(symbols + max(merges), seen),
        show_progress=False,
        initial_alphabet=alphabet,
        limit_alphabet=size + 1,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learnt["merges"]]
    out = []
    for number in merges:
        few = Tokenizer(models.BPE(vocab=learnt["vocab"], merges=pairs[:number]))
        after = sum(len(e.ids) for e in few.encode_batch(held, add_special_tokens=False))
        out.append(after / before)
    return out


def _points(ids: np.ndarray) -> list[int]:
    """Code points from 0x100 on, jumping over the surrogates."""
    points = ids.astype(np.int64) + 0x100
    shifted: list[int] = np.where(points >= 0xD800, points + 0x800, points).tolist()
    return shifted


def _text(row: np.ndarray) -> str:
    return "".join(map(chr, _points(row[row >= 0])))


LARGEST_BPE = 0x10FFFF - 0x100 - 0x800
