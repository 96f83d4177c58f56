"""`open_dataset`: from a place and a reader's name to a dataset with identity."""

from __future__ import annotations

import importlib
import itertools
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtbench.data.canonical import canonical_ids
from vtbench.data.identity import DigestCache, Progress, digest_all, revision, with_annotations
from vtbench.data.images import image_stem
from vtbench.data.metadata import with_metadata
from vtbench.data.reading import LIMIT
from vtbench.data.sample import NOTHING, Dataset, Entry, Listing, Reader, Sample
from vtbench.errors import BadData, UnknownName
from vtbench.places import is_url

READERS = {
    "images": "vtbench.data.open:read_images",
    "folder": "vtbench.data.images:read_folder",
    "url": "vtbench.data.remote:read_url",
    "tar": "vtbench.data.shards:read_shards",
    "webdataset": "vtbench.data.shards:read_shards",
    "hf": "vtbench.data.hub:read_hub",
    "parquet": "vtbench.data.tables:read_parquet",
    "npz": "vtbench.data.arrays:read_npz",
    "tokbench": "vtbench.data.tokbench:read_tokbench",
    "demo": "vtbench.data.tokbench:read_demo",
}
"""A reader's name -> where it lies; `images` finds the container by itself."""


def open_dataset(
    where: str,
    *,
    reader: str = "images",
    options: Mapping[str, Any] = NOTHING,
    known: Mapping[str, str] = NOTHING,
    cache: Path | None = None,
    progress: Progress | None = None,
    limit: float | None = LIMIT,
) -> Dataset:
    """List a dataset and give its samples their identity.

    where: a folder, a tar, shards (``shards/{0000..0009}.tar``), ``hf:NAME@REV?split=...&image=...``, a parquet file or an ``.npz``; or a URL of
    one that fsspec reaches (``s3://``, ``gs://``, ``hf://``, ``memory://``; `vtbench.data.remote`).
    options: of the reader (`split`, `image`, ...), and `metadata`, a CSV file joined on the id. known: revision -> the dataset's name
    that a suite declares. cache: folder of the file that remembers digests. progress: called with (done, total) while hashing.
    limit: seconds that one file may take to be read.

    Raises `BadData` (nothing there, duplicate ids, malformed annotations) and `UsageError` (unknown reader or option)."""
    listing = _reader(reader)(_local(where, options, cache), {**options, "cache": cache})
    entries, problems = _named(listing), list(listing.problems)
    if not entries and not problems:
        raise BadData(f"no images in {where}", f"Looked for {listing.searched}" if listing.searched else "")
    _refuse_duplicates(entries, where)
    digests = digest_all([entry.source for entry in entries], DigestCache(cache), progress, limit)
    samples: list[Sample] = []
    for entry, found in zip(entries, digests):
        if isinstance(found, str):
            problems.append((entry.id, found))
            continue
        digest, stored_as, stamp = found
        if not stored_as:
            problems.append((entry.id, f"{entry.source.name} is not an image that vtbench reads"))
            continue
        samples.append(
            Sample(
                id=entry.id,
                digest=with_annotations(digest, entry.words, entry.faces),
                source=entry.source,
                label=entry.label,
                caption=entry.caption,
                set=entry.set,
                words=entry.words,
                faces=entry.faces,
                stored_as=entry.stored_as or stored_as,
                content=digest,
                stamp=stamp,
            )
        )
    if not samples:
        shown = "; ".join(f"{id_}: {why}" for id_, why in problems[:3])
        raise BadData(f"none of the {len(problems)} images in {where} can be read ({shown})", "Check the files")
    hash_ = revision((sample.id, sample.digest) for sample in samples)
    name = known.get(hash_, f"{listing.kind}:{listing.name}")
    dataset = Dataset(name, hash_, tuple(samples), tuple(sorted(problems)), dict(listing.notes))
    metadata = options.get("metadata")
    return with_metadata(dataset, Path(metadata)) if metadata else dataset


def _local(where: str, options: Mapping[str, Any], cache: Path | None) -> str:
    """A place as readers take it: ``file://`` is a path, and a single remote archive is fetched first."""
    if where.startswith("file://"):
        return where.removeprefix("file://")
    if not is_url(where) or any(sign in where.partition("?")[0] for sign in "{}*"):
        return where
    from vtbench.data.remote import fetched, is_archive

    return fetched(where, {**options, "cache": cache}) if is_archive(where) else where


def read_images(where: str, options: Mapping[str, Any]) -> Listing:
    """Find the container by its look and read it: the reader `images`."""
    return _reader(container(where))(where, options)


def container(where: str) -> str:
    """The reader's name for a place, by its form and by what lies there. Raises `BadData` when nothing does."""
    if is_url(where):
        return "webdataset" if where.endswith((".tar", ".tgz", ".tar.gz")) else "url"
    if where.startswith("hf:"):
        return "hf"
    path = os.path.expanduser(where)
    if not os.path.exists(path):
        path = path.partition("?")[0]
    if os.path.isdir(path):
        return _inside(path)
    endings = {".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".parquet": "parquet", ".npz": "npz"}
    for ending, reader in endings.items():
        if where.lower().split("?")[0].endswith(ending):
            return reader
    if os.path.isfile(path):
        raise BadData(
            f"{where} is no container of images that vtbench knows",
            "Give a folder, .tar, .parquet, .npz or hf:NAME; for a single image, its folder",
        )
    raise BadData(f"there is nothing at {where}", "Check the path")


def _inside(folder: str) -> str:
    """The reader of a folder: shards or tables only where there are no images or folders of images beside them."""
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not entry.name.startswith(".")]
    names = {entry.name for entry in entries}
    folders = {entry.name for entry in entries if entry.is_dir()}
    if names & {"state.json", "dataset_dict.json"}:
        return "hf"
    if not any(image_stem(name) for name in names):
        if not folders and any(name.endswith(".tar") for name in names):
            return "webdataset"
        if (folders <= {"data"} and any(Path(folder).glob("*.parquet"))) or any(Path(folder, "data").glob("*.parquet")):
            return "hf"
    return "folder"


def _reader(name: str) -> Reader:
    if name not in READERS:
        raise UnknownName("reader", name, READERS)
    module, _, attribute = READERS[name].partition(":")
    read: Reader = getattr(importlib.import_module(module), attribute)
    return read


def _named(listing: Listing) -> list[Entry]:
    """Entries in order of their final ids: composed Unicode, and the canonical stem of known sets."""
    ids = [unicodedata.normalize("NFC", entry.id) for entry in listing.entries]
    entries = [replace(entry, id=id_) for entry, id_ in zip(listing.entries, canonical_ids(ids))]
    return sorted(entries, key=lambda entry: entry.id)


def _refuse_duplicates(entries: Sequence[Entry], where: str) -> None:
    """Ids are unique: `a.jpg` and `a.png` side by side are an error, since either could be paired with a reconstruction."""
    twice = [(a, b) for a, b in itertools.pairwise(entries) if a.id == b.id]
    if twice:
        shown = "; ".join(f"'{a.id}' is both {a.source.name} and {b.source.name}" for a, b in twice[:3])
        raise BadData(
            f"{len(twice)} ids in {where} are not unique: {shown}",
            "An id is the path without the extension; rename or remove one of each",
        )
