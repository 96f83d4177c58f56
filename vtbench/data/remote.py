"""Images behind URLs: a folder is read file by file, an archive or table is fetched once into the cache of this machine."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtbench.atomic import whole
from vtbench.data.images import image_stem, labelled, stays_inside
from vtbench.data.sample import Listing
from vtbench.data.sidecars import Sidecars
from vtbench.data.sources import Source, Stamp
from vtbench.errors import BadData, BadSample, VtbenchError
from vtbench.places import file_system

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".parquet", ".npz", ".arrow")


@dataclass(frozen=True)
class UrlSource:
    """A whole file behind a URL. outside: its size and mark (what changes when it does) at listing."""

    url: str
    outside: Stamp | None = None

    @property
    def name(self) -> str:
        return self.url

    def stamp(self) -> Stamp | None:
        return self.outside

    def fresh(self) -> Stamp | None:
        return None  # asking would cost as much as looking at the content

    def read(self) -> bytes:
        try:
            found, path = file_system(self.url)
            content = bytes(found.cat_file(path))
        except OSError as error:
            raise BadSample(f"cannot read {self.url}: {error.strerror or error}") from error
        if not content:
            raise BadSample(f"{self.url} is empty (0 bytes)")
        return content


def mark(url: str, facts: Mapping[str, Any]) -> Stamp | None:
    """The stamp of a remote file by what its file system tells of it; None when it tells nothing that would change with it."""
    told = [
        str(facts[k])
        for k in ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "updated", "created")
        if facts.get(k)
    ]
    if not told or facts.get("size") is None:
        return None
    digest = hashlib.sha256("\n".join(told).encode()).digest()
    return url, int(facts["size"]), int.from_bytes(digest[:7], "big")


def is_archive(where: str) -> bool:
    """Whether a URL names an archive or table by its ending."""
    return where.lower().partition("?")[0].endswith(ARCHIVES)


def read_url(where: str, options: Mapping[str, Any]) -> Listing:
    """List the images below a URL, as `vtbench.data.images.read_folder` does those of a folder.

    Raises `BadData` when nothing is there, `MissingPackage` or `UsageError` for a URL that cannot be opened."""
    found, root = file_system(where)
    scheme = where.partition("://")[0]
    try:
        files = found.find(root, detail=True)
    except OSError as error:
        raise BadData(f"cannot list {where}: {error.strerror or error}") from error
    if not files:
        raise BadData(f"there is nothing at {where}", "Check the path")
    listing = Listing("folder", posixpath.basename(root.rstrip("/")), [], searched="images")
    sidecars = Sidecars(listing)
    images: list[tuple[str, Source]] = []
    for path in sorted(files):
        relative = posixpath.relpath(path, root)
        if any(part.startswith(".") and part not in (".", "..") for part in relative.split("/")):
            listing.note("hidden files and folders")
            continue
        stem = image_stem(relative)
        if not stays_inside(relative):
            listing.problems.append((stem or relative, "its name leads out of the folder"))
            continue
        url = f"{scheme}://{path.lstrip('/')}"
        source = UrlSource(url, mark(url, files[path]))
        if stem is not None:
            images.append((stem, source))
        elif not sidecars.add(relative, int(files[path].get("size") or 0), source.read):
            listing.note("files that are not images")
    listing.entries = labelled(images, [stem for stem, _ in images], sidecars)
    return listing


def fetched(url: str, options: Mapping[str, Any]) -> str:
    """The path of a local copy of a remote file, fetched unless one of the same size and mark is there. options: `cache`, the folder.

    A query (``?split=...``) is left on. Raises `BadData`: no such file, no cache folder; `VtbenchError` when it cannot be written."""
    place, question, query = url.partition("?")
    cache = options.get("cache")
    if cache is None:
        raise BadData(f"{place} must be fetched, and there is no cache to fetch it into", "Fetch it, and give its path")
    found, path = file_system(place)
    try:
        facts = found.info(path)
        stamp = mark(place, facts) or (place, int(facts.get("size") or 0), 0)
        key = hashlib.sha256(repr(stamp).encode()).hexdigest()[:24]
        target = Path(cache) / "fetched" / key / posixpath.basename(path)
        if not target.is_file() or target.stat().st_size != stamp[1]:
            with whole(target) as part:
                found.get_file(path, str(part))
    except FileNotFoundError as error:
        raise BadData(f"there is nothing at {place}", "Check the path") from error
    except OSError as error:
        raise VtbenchError(
            f"cannot fetch {place}: {error.strerror or error}", "Fetch it yourself, and give its path"
        ) from error
    return os.fspath(target) + question + query


def expanded(pattern: str) -> list[str]:
    """The URLs that a pattern with ``*`` names, in order."""
    found, path = file_system(pattern)
    scheme = pattern.partition("://")[0]
    return [f"{scheme}://{str(p).lstrip('/')}" for p in sorted(found.glob(path))]
