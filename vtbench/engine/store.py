"""The measurement store: content-addressed, checksummed chunk files.

One folder a station (an extractor at a pass through a view), one file a chunk::

    measurements/<2 hex>/<station key>/station.json      what the station is, for people
    measurements/<2 hex>/<station key>/<chunk key>.vtm   8-byte magic, 8-byte header length, JSON header, payload

The header names every head's arrays (dtype, shape, offset), the samples that failed with their reasons, the environment that
made the file, and the payload's sha256. Writes are atomic, but do not wait for the disk (a wait would cost more than measuring on a fast GPU):
a damaged file, whatever damaged it, is named and treated as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vtbench.atomic import replace_file, sweep
from vtbench.errors import VtbenchError
from vtbench.places import Remote, place

MAGIC = b"VTBM0001"
SUFFIX = ".vtm"
MAX_HEADER = 1 << 28


class Damaged(Exception):
    """A chunk file that cannot be trusted."""


@dataclass
class Measured:
    """What a station measured on one chunk.

    heads: per head, values ``[R, ...]`` and the chunk position of each row ``[R]``. failed: chunk position -> reason. lost: a failure was not the sample's own (the
    model was lost on it), so the next run measures the chunk anew."""

    heads: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    lost: bool = False


def station_key(description: Mapping[str, Any]) -> str:
    """The content key of a station: a digest of its canonical JSON."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _pack(array: np.ndarray) -> tuple[np.ndarray, str]:
    """Strings travel as code points, of one byte where that is enough; everything else as it is."""
    if array.dtype.kind == "U":
        width = max(1, array.dtype.itemsize // 4)
        codes = np.ascontiguousarray(array.astype(f"<U{width}")).view("<u4").reshape(*array.shape, width)
        return (codes.astype(np.uint8) if codes.max(initial=0) < 256 else codes), "str"
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a measurement cannot hold {array.dtype}")
    return np.ascontiguousarray(array), ""


def _encode(measured: Measured) -> bytes:
    parts: list[bytes] = []
    offset = 0
    arrays: dict[str, dict[str, Any]] = {}

    def put(name: str, array: np.ndarray) -> None:
        nonlocal offset
        packed, kind = _pack(array)
        raw = packed.tobytes()
        arrays[name] = {"dtype": packed.dtype.str, "shape": list(packed.shape), "offset": offset, "kind": kind}
        padding = -len(raw) % 64
        parts.append(raw + b"\0" * padding)
        offset += len(raw) + padding

    for head, (values, image) in sorted(measured.heads.items()):
        put(f"{head}/values", values)
        put(f"{head}/image", image.astype(np.int64))
    payload = b"".join(parts)
    header = {
        "arrays": arrays,
        "heads": sorted(measured.heads),
        "failed": {str(k): v for k, v in measured.failed.items()},
        "environment": dict(measured.environment),
        "lost": measured.lost,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-(len(text) + 16) % 64)
    return MAGIC + len(text).to_bytes(8, "little") + text + payload


def _header(path: Path, start: bytes, read: Callable[[int], bytes]) -> tuple[dict[str, Any], int]:
    """The header of a file whose first 16 bytes are `start`, and its length; read: gives the next bytes."""
    if start[:8] != MAGIC:
        raise Damaged(f"{path} is not a measurement file")
    length = int.from_bytes(start[8:16], "little")
    if length > MAX_HEADER:
        raise Damaged(f"{path} has a header of {length:,} bytes")
    header = json.loads(read(length))
    if not isinstance(header, dict):
        raise Damaged(f"{path} has a header that is no table")
    return header, length


def _failed(path: Path) -> dict[int, str]:
    """The failures that a file names, from its header alone."""
    try:
        with path.open("rb") as file:
            header, _ = _header(path, file.read(16), file.read)
        return {int(k): v for k, v in header["failed"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} cannot be read: {error}") from error


def _decode(path: Path) -> Measured:
    try:
        raw = path.read_bytes()
        header, length = _header(path, raw[:16], lambda count: raw[16 : 16 + count])
        payload = memoryview(raw)[16 + length :]
        if hashlib.sha256(payload).hexdigest() != header["sha256"]:
            raise Damaged(f"{path} fails its checksum")

        def get(name: str) -> np.ndarray:
            spec = header["arrays"][name]
            dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(payload, dtype, count, spec["offset"]).reshape(shape)
            if spec["kind"] == "str":
                array = np.ascontiguousarray(array, "<u4").view(f"<U{shape[-1]}").reshape(shape[:-1])
            return array

        return Measured(
            {h: (get(f"{h}/values"), get(f"{h}/image")) for h in header["heads"]},
            {int(k): v for k, v in header["failed"].items()},
            header["environment"],
            bool(header.get("lost", False)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} cannot be read: {error}") from error


class Reads(Protocol):
    """The store's reading side."""

    def get(self, station: str, chunk: str) -> Measured | None: ...

    def failed(self, station: str, chunk: str) -> Mapping[int, str] | None:
        """The failures of a chunk (position -> reason), without its values; None when it is not there."""
        ...


class Store:
    """Measurements by (station, chunk) under one folder, shared by all runs and models."""

    def __init__(self, root: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.root = place(root)
        self.say = say

    @property
    def spill(self) -> Path | None:
        """Where the files of large columns may lie; None: in the system's temporary folder."""
        if isinstance(self.root, Remote):
            return None
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root

    def _path(self, station: str, chunk: str) -> Path:
        return self.root / station[:2] / station / f"{chunk}{SUFFIX}"

    def describe(self, station: str, description: Mapping[str, Any]) -> None:
        """Write down what a station is, once; later runs sweep up what was left half written there."""
        path = self.root / station[:2] / station / "station.json"
        if path.is_file():
            sweep(path.parent)
        else:
            self._write(path, json.dumps(description, indent=1, sort_keys=True, default=list).encode())

    def get(self, station: str, chunk: str) -> Measured | None:
        """The chunk's measurements, or None when they are absent or damaged (said, and to be made anew)."""
        path = self._path(station, chunk)
        if not path.is_file():
            return None
        try:
            return _decode(path)
        except Damaged as damage:
            self.say(f"measured anew: {damage}")
            path.unlink(missing_ok=True)
            return None

    def failed(self, station: str, chunk: str) -> Mapping[int, str] | None:
        """The failures of a chunk, from the header alone: the values are neither read nor checked."""
        path = self._path(station, chunk)
        try:
            return _failed(path) if path.is_file() else None
        except Damaged as damage:
            self.say(f"measured anew: {damage}")
            path.unlink(missing_ok=True)
            return None

    def put(self, station: str, chunk: str, measured: Measured) -> None:
        """Keep a chunk's measurements; heads that are there already stay, unless the model was lost on the chunk."""
        old = self.get(station, chunk)
        if old is not None and not old.lost:
            measured = replace(
                measured, heads={**old.heads, **measured.heads}, failed={**old.failed, **measured.failed}
            )
        self._write(self._path(station, chunk), _encode(measured))

    def _write(self, path: Path, content: bytes) -> None:
        try:
            replace_file(path, content, durable=False)
        except OSError as error:
            raise VtbenchError(
                f"cannot write {path}: {error.strerror or error}",
                "Everything measured before is kept: free the space or name another folder with --out, and run it again",
            ) from error
