"""Who a sample is: digests of content, a dataset's revision, and the file that remembers digests.

The same pictures give the same digests whatever holds them:
- an encoded file is identified by its bytes (``sha256``);
- a raw array, and a PNG, BMP or PPM whose 8-bit RGB pixels follow from the file without any convention (no alpha, no 16 bits, no
  EXIF orientation, one frame), by its shape and pixels. So an ``.npz`` and a folder of PNGs of the same pictures are one dataset,
  and recompressing a PNG changes nothing; the price is that such files are decoded once (then the digest is remembered).
- annotated samples add their words and faces, since measurements are taken from them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from vtbench.damage import BROKEN
from vtbench.data.decode import open_header, sniff
from vtbench.data.reading import LIMIT, Hung, Readers
from vtbench.data.sample import Face, Word
from vtbench.data.sources import Source, Stamp, settled
from vtbench.errors import BadSample, VtbenchError

Progress = Callable[[int, int], None]
"""(done, total), called now and then."""

_UNREADABLE: tuple[type[Exception], ...] = (*BROKEN, BadSample)
_LOSSLESS = ("png", "bmp", "ppm")


def pixels_digest(array: np.ndarray) -> str:
    """sha256 of uint8 RGB ``[H, W, 3]`` and its shape."""
    height, width, _ = array.shape
    digest = hashlib.sha256(f"rgb8 {width}x{height}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def identify(content: bytes | np.ndarray, name: str = "") -> tuple[str, str]:
    """(digest, stored_as) of a sample's content; stored_as is "" when the format is unknown."""
    if isinstance(content, np.ndarray):
        return pixels_digest(content), "array"
    stored_as = sniff(content)
    if stored_as in _LOSSLESS:
        plain = _plain_pixels(content, stored_as, name)
        if plain is not None:
            return pixels_digest(plain), stored_as
    return hashlib.sha256(content).hexdigest(), stored_as


def _plain_pixels(content: bytes, stored_as: str, name: str) -> np.ndarray | None:
    """uint8 RGB ``[H, W, 3]`` where no convention takes part in decoding; None otherwise, and for damaged files."""
    from PIL import ImageFile

    if (stored_as == "png" and content[24:25] > b"\x08") or (
        stored_as == "bmp" and content[28:30] not in (b"\x18\x00", b"\x08\x00", b"\x04\x00", b"\x01\x00")
    ):
        return None
    try:
        image = open_header(content, name)
        if image.mode not in ("RGB", "L", "P", "1") or "transparency" in image.info:
            return None
        if getattr(image, "n_frames", 1) != 1 or image.getexif().get(0x0112, 1) != 1:
            return None
        if stored_as == "ppm" and (not isinstance(image, ImageFile.ImageFile) or image.tile[0][0] != "raw"):
            return None  # values are scaled by their maximum
        image.load()
        # a PNG may carry its EXIF, transparency or text after the pixels
        if "transparency" in image.info or image.getexif().get(0x0112, 1) != 1:
            return None
        return np.asarray(image.convert("RGB"))
    except _UNREADABLE:
        return None  # identified by its bytes; decoding it later says what is wrong


def with_annotations(digest: str, words: Sequence[Word], faces: Sequence[Face]) -> str:
    """The digest of a picture together with its annotations; the picture's own when there are none."""
    if not words and not faces:
        return digest
    said = {
        "words": [[w.text, [float(v) for v in w.box], float(w.ratio)] for w in words],
        "faces": [
            [np.asarray(f.landmarks, dtype=float).tolist(), [float(v) for v in f.box], float(f.ratio)] for f in faces
        ],
    }
    text = json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{digest}\n{text}".encode()).hexdigest()


def revision(pairs: Iterable[tuple[str, str]]) -> str:
    """``sha256:...`` over the (sample id, digest) pairs, in any order."""
    digest = hashlib.sha256()
    for id_, content in sorted(pairs):
        digest.update(f"{id_}\0{content}\n".encode())
    return f"sha256:{digest.hexdigest()}"


class Identity(NamedTuple):
    """Who a sample is. stamp: while the file has it, its content has this digest; None where only the content itself can tell."""

    digest: str
    stored_as: str
    stamp: Stamp | None = None


class DigestCache:
    """Digests by (path, size, mtime_ns), in one small file that processes share.

    Lines are only ever appended, each batch in one write under a lock; a line cut short by a crash is not JSON and is passed
    over. A missing folder means: remember nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else Path(folder) / "digests-v1.jsonl"
        self.known: dict[Stamp, tuple[str, str]] = {}
        if self.path is not None and self.path.is_file():
            self._load(self.path)

    def _load(self, path: Path) -> None:
        with open(path, "rb") as file:
            for line in file:
                try:
                    name, size, mtime, digest, stored_as = json.loads(line)
                    stamp = (str(name), int(size), int(mtime))
                    whole = len(digest) == 64 and isinstance(stored_as, str)
                except (ValueError, TypeError, OverflowError, RecursionError):
                    continue  # a torn line: that file is hashed again
                if whole:
                    self.known[stamp] = (str(digest), stored_as)

    def get(self, stamp: Stamp | None) -> tuple[str, str] | None:
        return None if stamp is None else self.known.get(stamp)

    def add(self, found: Sequence[tuple[Stamp, str, str]]) -> None:
        """Remember (stamp, digest, stored_as). Raises `VtbenchError` when the file cannot be written."""
        now = time.time_ns()
        kept = [entry for entry in found if settled(entry[0], now)]
        if self.path is None or not kept:
            return
        lines = "".join(json.dumps([*stamp, digest, kind]) + "\n" for stamp, digest, kind in kept)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file, _locked(file):
                # a predecessor may have died in the middle of a line
                torn = file.tell() > 0 and not _ends_with_newline(self.path)
                file.write((b"\n" if torn else b"") + lines.encode())
        except OSError as error:
            raise VtbenchError(
                f"cannot write the digest cache {self.path}: {error.strerror or error}",
                "Free some space or choose another folder with --out",
            ) from error
        self.known.update({stamp: (digest, kind) for stamp, digest, kind in kept})


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@contextlib.contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: appends of one write each; a torn line is passed over
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        file.seek(0, os.SEEK_END)
        yield
        file.flush()
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def digest_all(
    sources: Sequence[Source], cache: DigestCache, progress: Progress | None = None, limit: float | None = LIMIT
) -> list[Identity | str]:
    """Every source's identity, or the reason why it cannot be read; remembered as it goes on. limit: seconds for one."""
    now = time.time_ns()
    stamps = [source.stamp() for source in sources]
    results: list[Identity | str | None] = [
        None if (known := cache.get(stamp)) is None else Identity(*known, stamp) for stamp in stamps
    ]
    missing = [i for i, result in enumerate(results) if result is None]
    done = len(sources) - len(missing)

    def look(index: int) -> Identity | str:
        stamp = stamps[index]
        try:
            found = identify(sources[index].read(), sources[index].name)
            # a file that changed while it was read, or may have, is not remembered
            sure = stamp is not None and settled(stamp, now) and sources[index].stamp() == stamp
            return Identity(*found, stamp if sure else None)
        except BadSample as error:
            return error.message

    threads = min(8, _cores(), max(1, len(missing)))
    with Readers(threads, limit) as readers:
        for start in range(0, len(missing), 512):
            part = missing[start : start + 512]
            fresh: list[tuple[Stamp, str, str]] = []
            jobs = [readers.submit(sources[i].name, functools.partial(look, i)) for i in part]
            for index, job in zip(part, jobs):
                try:
                    result = readers.result(job)
                except Hung as error:
                    result = str(error)
                results[index] = result
                if not isinstance(result, str) and result.stamp is not None:
                    fresh.append((result.stamp, result.digest, result.stored_as))
            cache.add(fresh)
            done += len(part)
            if progress is not None:
                progress(done, len(sources))
    return [result if result is not None else "not read" for result in results]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
