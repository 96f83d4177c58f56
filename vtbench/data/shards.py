"""Reader of tar files and webdataset shards: one tar, a folder of them, or a pattern such as ``shards/{0000..0009}.tar``."""

from __future__ import annotations

import functools
import glob
import gzip
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from vtbench.data.images import image_stem, labelled, stays_inside
from vtbench.data.remote import expanded as expanded_urls
from vtbench.data.remote import fetched
from vtbench.data.sample import Listing
from vtbench.data.sidecars import Sidecars
from vtbench.data.sources import Source, SpanSource, file_stamp
from vtbench.data.unpack import unpacked
from vtbench.errors import BadData
from vtbench.places import is_url

MAX_SHARDS = 100_000


def read_shards(where: str, options: Mapping[str, Any]) -> Listing:
    """List the images in tar files. Labels and captions come from sidecars (``.cls``, ``.txt``, ``.json``), else class folders.

    An id is the member's path without its extension; a folder around everything, named as the tar itself, is left away
    (``val.tar`` made from ``val/``). Nothing is unpacked: members are read in place. Links and names that lead outside
    become problems. A ``.tar.gz`` is unpacked once into the cache. Raises `BadData`: no shard, a damaged tar."""
    paths = [fetched(p, options) if is_url(p) else p for p in shards(where)]
    first = os.path.basename(where.rstrip("/"))
    name = re.sub(r"\.(tar(\.gz)?|tgz)$", "", first)
    listing = Listing("tar" if len(paths) == 1 else "webdataset", name, [], searched="images in the archive")
    sidecars = Sidecars(listing)
    found: list[tuple[str, Source]] = []
    for path in paths:
        found.extend(_members(path, options, listing, sidecars))
    ids = [stem for stem, _ in found]
    if len(paths) == 1 and ids and all(id_.startswith(f"{name}/") for id_ in ids):
        ids = [id_[len(name) + 1 :] for id_ in ids]
    listing.entries = labelled(found, ids, sidecars)
    return listing


def shards(where: str) -> list[str]:
    """The tar files that a path, a folder, a brace pattern or a glob names, in order. Raises `BadData`."""
    path = os.path.expanduser(where)
    if os.path.isdir(path):
        found = sorted(str(p) for p in Path(path).iterdir() if p.name.endswith(".tar") and not p.name.startswith("."))
    elif os.path.exists(path):
        found = [path]
    else:
        expanded = list(braces(path))
        found = [p for pattern in expanded for p in (matching(pattern) if glob.has_magic(pattern) else [pattern])]
    missing = [p for p in found if not is_url(p) and not os.path.isfile(p)]
    if missing or not found:
        names = ", ".join(missing[:3]) or where
        raise BadData(f"there is no tar at {names}" + (f" ({len(missing)} are missing)" if len(missing) > 3 else ""))
    return found


def matching(pattern: str) -> list[str]:
    """The files that a pattern with ``*`` names, in order: paths, or URLs."""
    return expanded_urls(pattern) if is_url(pattern) else sorted(glob.glob(pattern))


def braces(pattern: str) -> Iterator[str]:
    """Expand ``{000..012}`` (keeping leading zeros) and ``{a,b}``, as a shell does. Raises `BadData` past `MAX_SHARDS`."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    inner = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if inner is not None:
        low, high = int(inner[1]), int(inner[2])
        if high - low >= MAX_SHARDS:
            raise BadData(f"{pattern} names {high - low + 1} shards; the limit is {MAX_SHARDS}")
        width = len(inner[1]) if inner[1].startswith("0") or len(inner[1]) == len(inner[2]) else 0
        choices = [str(i).zfill(width) for i in range(low, high + 1)]
    else:
        choices = match[1].split(",")
    for choice in choices:
        yield from braces(pattern[: match.start()] + choice + pattern[match.end() :])


def _members(
    path: str, options: Mapping[str, Any], listing: Listing, sidecars: Sidecars
) -> Iterator[tuple[str, SpanSource]]:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    outside = file_stamp(os.path.abspath(path))
    if compressed:
        stream = functools.partial(gzip.open, path, "rb")
        path = unpacked(path, options, ".tar", f"Unpack it: gunzip {path}", cast("Any", stream))
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                yield from _member(path, member, outside, listing, sidecars)
        _whole(path, archive.offset)
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise BadData(f"{path} is no whole tar: {error}", "Fetch it again") from error


def _whole(path: str, end: int) -> None:
    """A tar ends in a block of zeros: one that was cut between two members does not."""
    with open(path, "rb") as file:
        file.seek(max(0, end - tarfile.BLOCKSIZE))
        if not _zeros(file) and not _zeros(file):
            raise tarfile.ReadError("it is cut short")


def _zeros(file: IO[bytes]) -> bool:
    return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _member(
    path: str, member: tarfile.TarInfo, outside: Any, listing: Listing, sidecars: Sidecars
) -> Iterator[tuple[str, SpanSource]]:
    name = member.name.removeprefix("./")
    if member.isdir():
        return
    if any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
        listing.note("hidden files and folders")
        return
    stem = image_stem(name)
    problem = ""
    if not stays_inside(name):
        problem = "its name leads out of the archive"
    elif not member.isreg():
        problem = "a link or a device, not a file"
    elif member.issparse():
        problem = "a sparse member, which cannot be read in place"
    else:
        try:
            name.encode()
        except UnicodeEncodeError:
            problem = "its name is not valid UTF-8"
    if problem:
        if stem is not None:
            listing.problems.append((ascii(stem)[1:-1] if "UTF-8" in problem else stem, problem))
        else:
            listing.note("files that are not images")
        return
    source = SpanSource(path, member.offset_data, member.size, name, outside)
    if stem is not None:
        yield stem, source
    elif not sidecars.add(name, member.size, source.read):
        listing.note("files that are not images")
