"""Reader of a folder of images, at any nesting; class folders and sidecars become labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vtbench.data.decode import EXTENSIONS
from vtbench.data.sample import Entry, Listing
from vtbench.data.sidecars import Sidecars
from vtbench.data.sources import FileSource, Source
from vtbench.errors import BadData


def read_folder(where: str, options: Mapping[str, Any]) -> Listing:
    """List the images under a folder. Hidden files and folders are left out; links are followed (circles are not).

    Labels and captions come from files beside an image (``x.cls``, ``x.txt``, ``x.json``), else labels from class folders.
    Raises `BadData` when the folder is missing or cannot be listed."""
    root = Path(where).expanduser()
    if not root.is_dir():
        raise BadData(f"there is no folder {where}", "Check the path")
    listing = Listing("folder", root.resolve().name, [], searched=f"images ({', '.join(sorted(EXTENSIONS))})")
    sidecars = Sidecars(listing)
    found: list[tuple[str, Source]] = []
    for path, relative in walk(root, listing):
        stem = image_stem(relative)
        if stem is not None:
            found.append((stem, FileSource(path)))
        elif not sidecars.add(relative, os.path.getsize(path), FileSource(path).read):
            listing.note("files that are not images")
    listing.entries = labelled(found, [id_ for id_, _ in found], sidecars)
    return listing


def image_stem(name: str) -> str | None:
    """A file's name without its image extension (any case); None when it is not an image by its name."""
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in EXTENSIONS else None


def stays_inside(name: str) -> bool:
    """Whether a name stays below the folder it is joined to."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return (
        bool(parts)
        and ".." not in parts
        and not name.startswith(("/", "\\"))
        and ":" not in parts[0]
        and "\0" not in name
    )


def labelled(found: Sequence[tuple[str, Source]], ids: Sequence[str], sidecars: Sidecars) -> list[Entry]:
    """Entries of (stem, source) pairs under their ids, with what their sidecars say; without any, class folders are labels."""
    facts = [sidecars.of(stem) for stem, _ in found]
    sidecars.note_unused()
    folders = class_labels(ids) if all(label is None for label, _ in facts) else [None] * len(ids)
    return [
        Entry(id_, source, label=folder if label is None else label, caption=caption)
        for id_, (_, source), (label, caption), folder in zip(ids, found, facts, folders)
    ]


def class_labels(ids: Sequence[str]) -> list[int | None]:
    """The index of each id's folder among the sorted folders, when every id lies in exactly one level of at least two."""
    folders = [id_.split("/") for id_ in ids]
    names = sorted({parts[0] for parts in folders})
    if len(names) < 2 or any(len(parts) != 2 for parts in folders):
        return [None] * len(ids)
    index = {name: i for i, name in enumerate(names)}
    return [index[parts[0]] for parts in folders]


def walk(root: Path, listing: Listing) -> Iterator[tuple[str, str]]:
    """(path, path relative to the root with '/') of every file that is not hidden, depth first, by name.

    Links are followed; those that lead out of the root are counted. What cannot be looked at goes to the listing's problems, what is
    hidden to its notes."""
    yield from _walk(str(root), "", listing, (), os.path.join(os.path.realpath(root), ""))


def _walk(
    folder: str, relative: str, listing: Listing, above: tuple[tuple[int, int], ...], root: str
) -> Iterator[tuple[str, str]]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        listing.problems.append((relative.rstrip("/"), "a link that leads back to a folder above it"))
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not relative:
            raise BadData(f"cannot list {folder}: {error.strerror or error}") from error
        listing.problems.append((relative.rstrip("/"), f"cannot list the folder: {error.strerror or error}"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            listing.note("hidden files and folders")
            continue
        name = relative + entry.name
        try:
            name.encode()
        except UnicodeEncodeError:
            listing.problems.append((ascii(name)[1:-1], "its name is not valid UTF-8"))
            continue
        try:
            is_folder = entry.is_dir()
            exists = is_folder or os.path.exists(entry.path)
        except OSError as error:
            listing.problems.append((name, f"cannot be looked at: {error.strerror or error}"))
            continue
        if exists and entry.is_symlink() and not os.path.join(os.path.realpath(entry.path), "").startswith(root):
            listing.note("links that lead out of the folder")
        if is_folder:
            yield from _walk(entry.path, name + "/", listing, (*above, here), root)
        elif exists and not entry.is_file():
            listing.note("files that are not images")  # sockets, pipes, devices
        elif exists:
            yield entry.path, name
        elif image_stem(entry.name) is not None:
            listing.problems.append((image_stem(name) or name, "a link to nothing"))
        else:
            listing.note("files that are not images")
