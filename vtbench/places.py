"""Places: folders of this machine, and URLs of whatever fsspec reaches (``s3://``, ``gs://``, ``hf://``, ``memory://``), spoken to alike.

A `Remote` has the part of `pathlib.Path` that results need. What a file system cannot do is not pretended: object stores have no locks and no
append, but a file there is written whole or not at all.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import posixpath
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

from vtbench.errors import MissingPackage, UsageError, VtbenchError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")


def is_url(text: object) -> bool:
    """Whether a place is a URL rather than a path of this machine; ``file://`` counts as one."""
    return isinstance(text, Remote) or _URL.match(str(text)) is not None


def place(where: str | os.PathLike[str]) -> Path:
    """A folder or file by its path or URL: a `pathlib.Path`, or a `Remote` that reads and writes like one. ``file://`` is a path.

    Raises `MissingPackage` or `UsageError` for a URL that nothing here can open."""
    if isinstance(where, (Path, Remote)):
        return cast(Path, where)
    text = str(where)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return cast(Path, Remote(text)) if is_url(text) else Path(text)


def file_system(url: str) -> tuple[Any, str]:
    """(file system, path in it) of a URL. Raises `MissingPackage`, `UsageError`."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingPackage("fsspec", "hub", url) from error
    try:
        found, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url}: {error}", "Install what fsspec names, in this environment") from error
    except ValueError as error:
        raise UsageError(
            f"{url} is no URL that can be opened: {error}", "s3://, gs://, hf://, memory:// or a path"
        ) from error
    return found, str(path)


class Remote(os.PathLike[str]):
    """A file or folder behind a URL, with the methods of `pathlib.Path` that vtbench uses. Sent to another process as its URL."""

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        self.url = f"{scheme}://{rest.rstrip('/')}"

    def __str__(self) -> str:
        return self.url

    __fspath__ = __str__

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.url,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __lt__(self, other: Remote) -> bool:
        return self.url < other.url

    def __truediv__(self, name: str | os.PathLike[str]) -> Remote:
        return Remote(f"{self.url}/{os.fspath(name)}")

    @cached_property
    def _where(self) -> tuple[Any, str]:
        return file_system(self.url)

    @property
    def name(self) -> str:
        return posixpath.basename(self.url.partition("://")[2])

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> Remote:
        scheme, _, rest = self.url.partition("://")
        return Remote(f"{scheme}://{posixpath.dirname(rest)}")

    def with_name(self, name: str) -> Remote:
        return self.parent / name

    def resolve(self) -> Remote:
        return self

    def expanduser(self) -> Remote:
        return self

    def exists(self) -> bool:
        found, path = self._where
        return bool(found.exists(path))

    def is_file(self) -> bool:
        found, path = self._where
        return bool(found.isfile(path))

    def is_dir(self) -> bool:
        found, path = self._where
        return bool(found.isdir(path))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        found, path = self._where
        found.makedirs(path, exist_ok=True)

    def unlink(self, missing_ok: bool = False) -> None:
        found, path = self._where
        try:
            found.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_all(self) -> None:
        """Remove a folder and everything in it; nothing when it is not there."""
        found, path = self._where
        if found.exists(path):
            found.rm(path, recursive=True)

    def read_bytes(self) -> bytes:
        found, path = self._where
        return bytes(found.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file: object stores show it when it is complete."""
        found, path = self._where
        found.makedirs(posixpath.dirname(path), exist_ok=True)
        found.pipe_file(path, data)

    def open(self, mode: str = "r", encoding: str | None = None, newline: str | None = None) -> IO[Any]:
        """Open for reading."""
        if "b" in mode:
            found, path = self._where
            return cast("IO[Any]", found.open(path, mode))
        return io.StringIO(self.read_text(encoding or "utf-8"), newline=newline)

    def iterdir(self) -> Iterator[Remote]:
        found, path = self._where
        for entry in found.ls(path, detail=False):
            name = posixpath.basename(str(entry).rstrip("/"))
            if name:
                yield self / name

    def glob(self, pattern: str) -> Iterator[Remote]:
        """The entries of this folder (no deeper) whose names match."""
        try:
            entries = sorted(self.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from (entry for entry in entries if fnmatch.fnmatchcase(entry.name, pattern))


def shared_by_processes(where: Path) -> bool:
    """Whether other processes see a place: memory:// lives in one."""
    return not str(where).startswith("memory://")


def check_writable(folder: Path) -> None:
    """Make a results folder, so that nothing is measured for one that cannot be written. Raises `VtbenchError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_url(folder) and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise VtbenchError(f"cannot write to {folder}: {error.strerror}", "Name another folder with --out") from error


def opened(path: Path) -> Any:
    """What a reader that knows paths alone is given: the path, or a remote file, opened."""
    return path.open("rb") if isinstance(path, Remote) else path
