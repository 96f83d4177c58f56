"""Compressed archives give no single image without reading all before it: they are unpacked once into the cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from vtbench.data.sources import file_stamp
from vtbench.errors import BadData, VtbenchError

RESERVE = 1 << 30
"""Bytes that unpacking leaves free."""

LOOK = 256 << 20
"""Bytes between two looks at the disk."""


def unpacked(path: str, options: Mapping[str, Any], ending: str, way_out: str, stream: Callable[[], IO[bytes]]) -> str:
    """Path of the unpacked copy of `path`, made from `stream()` unless it is there. options: `cache`, the folder.

    Raises `BadData` when there is no cache folder (with `way_out`) or the archive is damaged, `VtbenchError` when the disk is full."""
    cache = options.get("cache")
    if cache is None:
        raise BadData(f"{path} is compressed, so its images cannot be read one by one", way_out)
    key = hashlib.sha256(repr(file_stamp(os.path.abspath(path))).encode()).hexdigest()[:24]
    target = Path(cache) / "unpacked" / f"{key}{ending}"
    if target.is_file():
        return str(target)
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
        with os.fdopen(handle, "wb") as out, stream() as source:
            _copy(source, out, target.parent, path)
        os.replace(temporary, target)
    except (EOFError, zlib.error, ValueError, zipfile.BadZipFile) as error:
        raise BadData(f"{path} is damaged: {error}", "Fetch it again") from error
    except OSError as error:
        if error.errno is None:  # gzip.BadGzipFile
            raise BadData(f"{path} is damaged: {error}", "Fetch it again") from error
        raise VtbenchError(f"cannot unpack {path} into {target.parent}: {error.strerror}", way_out) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
    return str(target)


def _copy(source: IO[bytes], out: IO[bytes], folder: Path, path: str) -> None:
    """Unpack until the end, or until the disk is nearly full: an archive may hold a thousand times what it says."""
    done = 0
    while part := source.read(1 << 20):
        if done % LOOK == 0 and shutil.disk_usage(folder).free < RESERVE + LOOK:
            raise VtbenchError(
                f"cannot unpack {path} into {folder}: after {done / 1e9:.1f} GB the disk would be full",
                "Free some space, or choose another folder with --out",
            )
        out.write(part)
        done += 1 << 20
