"""Arrays of ``.npz`` files from strangers: no pickle is executed, and nothing is believed that the file's own length contradicts."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from vtbench.damage import BROKEN, reason
from vtbench.errors import BadData

MAX_BYTES = 16 << 30
"""Largest single array that is read into memory."""

_CODES = {"<": "<u4", ">": ">u4", "=": "=u4", "|": "=u4"}
PICKLED = "it holds pickled objects, which are never executed"


def members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays that a file holds, by name. Raises `BadData` when it is no whole ``.npz``."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except FileNotFoundError as error:
        raise BadData(f"there is no file {path}") from error
    except BROKEN as error:
        raise BadData(f"{path} is no whole .npz: {reason(error)}", "Fetch it again") from error


def header(stream: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of the ``.npy`` that a stream stands at. Raises `BadData`; Python objects are not refused here."""
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except BROKEN as error:
        raise BadData(f"{what} is no array: {reason(error)}") from error
    if any(n < 0 for n in shape):
        raise BadData(f"{what} is no array: its shape is {list(shape)}")
    return shape, fortran, dtype


def load(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a file by name: those of `names` that are there, or all. Raises `BadData`: damaged, cut short, pickled objects, larger
    than `MAX_BYTES`."""
    there = members(path)
    out = {}
    for name in there if names is None else [n for n in there if n in names]:
        what = f"{path}: {name}"
        try:
            with zipfile.ZipFile(path) as archive:
                with archive.open(there[name]) as stream:
                    shape, _, dtype = header(stream, what)
                if dtype.hasobject:
                    raise BadData(f"{what} cannot be read: {PICKLED}", "Save it as a plain array")
                size = math.prod(shape) * dtype.itemsize
                if size > MAX_BYTES:
                    raise BadData(f"{what} has {size:,} bytes; the limit is {MAX_BYTES:,}")
                if size > there[name].file_size:
                    raise BadData(f"{what} is cut short: {list(shape)} {dtype} takes {size:,} bytes", "Fetch it again")
                with archive.open(there[name]) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                if (
                    array.dtype.kind == "U"
                    and array.size
                    and array.reshape(-1).view(_CODES[array.dtype.byteorder]).max() > 0x10FFFF
                ):
                    raise BadData(f"{what} is damaged: it holds text that is no Unicode", "Fetch it again")
                out[name] = array
        except BROKEN as error:
            raise BadData(f"{what} cannot be read: {reason(error)}", "Fetch it again") from error
    return out
