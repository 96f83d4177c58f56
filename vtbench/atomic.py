"""Writes that a reader sees whole or not at all."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vtbench.places import Remote

LEFT_BEHIND = 24 * 3600
"""Seconds after which nobody is still writing a file."""


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old or the new one, whole. Raises `OSError`.

    durable: even after a power cut, which costs a wait for the disk; without it a power cut (no process's death) may leave a file damaged,
    which suits files that carry a checksum and can be made anew. Behind a URL: as whole and as durable as its file system makes it."""
    if isinstance(path, Remote):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left behind a day ago or earlier; what cannot be removed stays. A URL's file system has none."""
    if isinstance(folder, Remote):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > LEFT_BEHIND:
                        os.unlink(entry.path)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A local file to write in the place of `path`: it appears there when the block ends well, and not at all otherwise. Raises `OSError`."""
    if isinstance(path, Remote):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder, path.name)
            yield part
            path.write_bytes(part.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield part
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def held(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file (freed by the system when its holder dies, however that is). waiting: called once when another process
    has it, before waiting for it. Behind a URL there are no locks, and none is held. Raises `OSError`."""
    if isinstance(path, Remote):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
