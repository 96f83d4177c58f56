"""How far the tokens can be squeezed without a model of images: Huffman, general compressors, byte-pair merges."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from vtbench.api import Fields, Value, metric
from vtbench.errors import MissingPackage
from vtbench.tokens import entropy, packing
from vtbench.tokens.study import Study, needs, per_unit

FIELDS = ("sample_tokens", "null_seed")


def _saving(counts: np.ndarray) -> float:
    seen = int((counts > 0).sum())
    return 100 * (1 - entropy.huffman_bits(counts) / math.ceil(math.log2(seen))) if seen > 1 else math.nan


@metric(
    "huffman_saving",
    needs=needs,
    unit="%",
    fields=FIELDS,
    title="What a Huffman code of the symbols saves over a fixed-length code of the symbols that occur",
    source="1 - L / ceil(log2 V); Huffman 1952. Published: visual tokens 2.9 %, text 34.9 % (Chan et al.)",
    tolerance=1e-3,
    groups=50,
)
@per_unit
def huffman_saving(study: Study, p: Fields) -> Iterator[Value]:
    """Percent. A V just above a power of two saves something even under uniform use: see the null."""
    for null in ("", "uniform"):
        counts = study.counts_of(null)
        name = study.slice(f"null={null}" if null else "")
        total = counts.total
        value = _saving(total)
        if math.isnan(value):
            yield Value(status="skipped", why="only one symbol occurs", slice=name, n=counts.n)
            continue
        left = np.array([math.nan if kept is None else _saving(kept) for kept in counts.without()])
        notes = study.law_note() | {"bits": entropy.huffman_bits(total), "V": int((total > 0).sum())}
        yield Value(value=value, n=counts.n, groups=left, slice=name, notes=notes)


@metric(
    "compressed_bits",
    needs=needs,
    unit="bits/token",
    fields=(*FIELDS, "compress_tokens", "scans"),
    title="Bits a token of general compressors: the best of gzip, bzip2, xz, zstd over three byte layouts, and of a range coder",
    source="real bytes of a stated number of tokens; adaptive: ideal code length of an order-0 range coder",
    tolerance=1e-2,
    groups=50,
)
@per_unit
def compressed_bits(study: Study, p: Fields) -> Iterator[Value]:
    """`all` is the best of all compressors in the native order; each compressor's best layout has its slice. The nulls go through the same."""
    limit = int(p["compress_tokens"])
    native = "raster" if "raster" in study.scans(("raster", "native")) else "native"
    sample = study.scanned(native)
    rows = max(1, limit // max(1, sample.shape[1]))
    step = max(1, len(sample) // rows)
    for null in ("", "uniform", "shuffled"):
        if null == "uniform":
            there = int((sample[::step][:rows] >= 0).sum())
            ids = np.random.default_rng(study.seed).integers(0, study.size, there)
        else:
            flat = study.scanned(native, null)[::step][:rows].ravel()
            ids = flat[flat >= 0]
        found = packing.compressed_bits(ids, study.size)
        (codec, layout), best = min(found.items(), key=lambda item: item[1])
        tail = f"null={null}" if null else ""
        notes = study.law_note(len(ids)) | {"compressor": codec, "layout": layout}
        yield Value(value=best, n=len(ids), slice=study.slice(tail), notes=notes)
        if not null:
            for name in dict.fromkeys(c for c, _ in found):
                bits, layout = min((b, kind) for (c, kind), b in found.items() if c == name)
                yield Value(value=bits, n=len(ids), slice=study.slice(f"codec={name}"), notes={"layout": layout})
        counted = np.bincount(ids, minlength=study.size)
        yield Value(value=packing.adaptive_bits(counted), n=len(ids), slice=study.slice("codec=adaptive", tail))


@metric(
    "bpe_saving",
    needs=needs,
    unit="%",
    fields=(*FIELDS, "bpe_tokens", "bpe_merges"),
    title="Tokens saved by byte-pair merges learnt on one half of the images and applied to the other",
    source="Hugging Face tokenizers, one character an id, one word an image; Sennrich et al. 2016",
    tolerance=1e-2,
    groups=50,
)
@per_unit
def bpe_saving(study: Study, p: Fields) -> Iterator[Value]:
    """Percent, per number of merges; independent tokens of a large codebook save about 1 %. Merges run along the native (raster) order."""
    if study.size > packing.LARGEST_BPE:
        yield Value(status="skipped", why=f"{study.size} symbols do not fit into Unicode", slice=study.slice())
        return
    for null in ("", "shuffled"):
        ids = study.shuffled if null else study.sample
        rows = min(len(ids), max(2, int(p["bpe_tokens"]) // max(1, ids.shape[1])))
        picked = ids[np.linspace(0, len(ids) - 1, rows).round().astype(int)]
        train, test = picked[0::2], picked[1::2]
        if not len(test) or not (test >= 0).any():
            yield Value(
                status="skipped", why="one image: merges need images to learn from and others", slice=study.slice()
            )
            return
        merges = [int(k) for k in p["bpe_merges"]]
        try:
            left = packing.bpe_tokens(train, test, study.size, merges)
        except MissingPackage as error:
            yield Value(status="skipped", why=str(error), slice=study.slice())
            return
        for number, part in zip(merges, left):
            per_image = float((test >= 0).sum() / len(test))
            notes = {"tokens_per_image": part * per_image, "before": per_image, "images": len(test)}
            name = study.slice(f"merges={number}", f"null={null}" if null else "")
            yield Value(value=100 * (1 - part), n=int((test >= 0).sum()), slice=name, notes=notes)
