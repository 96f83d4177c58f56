"""Reader of ``.npz`` files with ``arr_0``, uint8 ``[N, H, W, 3]``: the field's container of samples (ADM's evaluator)."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from vtbench import npz
from vtbench.damage import BROKEN, reason
from vtbench.data.sample import Entry, Listing
from vtbench.data.sources import ArraySource, file_stamp
from vtbench.data.unpack import unpacked
from vtbench.errors import BadData

MEMBER = "arr_0.npy"


def read_npz(where: str, options: Mapping[str, Any]) -> Listing:
    """List the images of an ``.npz``; their ids are `000000`, `000001`, ...; integers ``arr_1`` ``[N]`` are labels.

    Images are read in place. A compressed file is unpacked once into the cache. Pickled objects are never loaded.
    Raises `BadData`: not an ``.npz``, no ``arr_0``, another dtype or shape, cut short."""
    path = os.path.abspath(os.path.expanduser(where))
    name = os.path.basename(path).removesuffix(".npz")
    there = npz.members(Path(path))
    if "arr_0" not in there:
        raise BadData(
            f"{where} has no arr_0 (it has {', '.join(list(there)[:5]) or 'nothing'})",
            "Write it with np.savez(path, images), images uint8 [N, H, W, 3]",
        )
    info = there["arr_0"]
    labels = npz.load(Path(path), ("arr_1",)).get("arr_1")
    outside = file_stamp(path)
    if info.compress_type == zipfile.ZIP_STORED:
        inside, start = path, _data_offset(path, info)
    else:
        inside, start = unpacked(path, options, ".npy", "Save it with np.savez", lambda: _opened(path)), 0
    shape, offset = _header(inside, start, info.file_size, where)
    count = shape[0]
    listing = Listing("npz", name, [], searched="arr_0")
    if labels is not None and (labels.shape != (count,) or labels.dtype.kind not in "iu"):
        listing.note("arr_1 that is not one label an image")
        labels = None
    width = max(6, len(str(count - 1)))
    for i in range(count):
        source = ArraySource(inside, offset, (shape[1], shape[2], 3), i, outside)
        listing.entries.append(Entry(f"{i:0{width}d}", source, label=None if labels is None else int(labels[i])))
    return listing


def _opened(path: str) -> IO[bytes]:
    return zipfile.ZipFile(path).open(MEMBER)


def _data_offset(path: str, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: after its local header, whose lengths may differ from the directory's."""
    try:
        with open(path, "rb") as file:
            file.seek(info.header_offset)
            header = file.read(30)
    except BROKEN as error:
        raise BadData(f"{path} is no whole .npz: {reason(error)}", "Fetch it again") from error
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise BadData(f"{path} is no whole .npz: {MEMBER} has no header", "Fetch it again")
    return info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _header(path: str, start: int, length: int, where: str) -> tuple[tuple[int, ...], int]:
    """(shape, offset of the first pixel) of the array that fills `length` bytes from `start` on."""
    with open(path, "rb") as file:
        file.seek(start)
        shape, fortran, dtype = npz.header(file, f"{where}: arr_0")
        offset = file.tell()
        end = min(start + length, file.seek(0, os.SEEK_END))
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran or 0 in shape:
        order = ", in Fortran order" if fortran else ""
        raise BadData(f"{where}: arr_0 is {dtype} {shape}{order}", "It must be uint8 [N, H, W, 3]")
    if offset + math.prod(shape) > end:
        raise BadData(f"{where} is cut short: arr_0 should have {shape[0]} images", "Fetch it again")
    return shape, offset
