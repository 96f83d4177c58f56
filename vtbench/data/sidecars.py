"""Labels and captions that lie beside an image under its own name: ``x.jpg`` with ``x.cls``, ``x.txt`` or ``x.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vtbench.data.sample import Listing
from vtbench.errors import BadSample

ENDINGS = (".cls", ".txt", ".json")
MAX_BYTES = 1 << 20
"""Largest sidecar that is read."""

LABEL_KEYS = ("label", "cls", "class")
CAPTION_KEYS = ("caption", "text", "prompt")


@dataclass
class Sidecars:
    """Sidecars by the stem they share with their image; `add` collects, `of` reads."""

    listing: Listing
    readers: dict[str, dict[str, Callable[[], bytes]]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def add(self, name: str, size: int, read: Callable[[], bytes]) -> bool:
        """Remember a file if it is a sidecar by its name; whether it is. name: path with '/'."""
        stem, ending = os.path.splitext(name)
        if ending.lower() not in ENDINGS:
            return False
        if size > MAX_BYTES:
            self.listing.note("labels or captions larger than 1 MiB")
        else:
            self.readers.setdefault(stem, {})[ending.lower()] = read
        return True

    def of(self, stem: str) -> tuple[int | None, str | None]:
        """(label, caption) of the image with this stem, or with a webdataset key (the name up to its first dot) in common."""
        folder, slash, base = stem.rpartition("/")
        key = stem if stem in self.readers else folder + slash + base.split(".")[0]
        found = self.readers.get(key, {})
        self.used.add(key)
        try:
            texts = {ending: read().decode("utf-8") for ending, read in found.items()}
        except (BadSample, OSError, UnicodeDecodeError):
            self.listing.note("labels or captions that cannot be read")
            return None, None
        facts: Mapping[str, object] = {}
        if ".json" in texts:
            try:
                loaded = json.loads(texts[".json"])
                facts = loaded if isinstance(loaded, dict) else {}
            except (ValueError, RecursionError):
                self.listing.note("labels or captions that cannot be read")
        label = next((v for k in LABEL_KEYS if isinstance(v := facts.get(k), int) and not isinstance(v, bool)), None)
        caption = next((v for k in CAPTION_KEYS if isinstance(v := facts.get(k), str)), None)
        if ".cls" in texts:
            try:
                label = int(texts[".cls"])
            except ValueError:
                self.listing.note("labels that are no number")
        if ".txt" in texts:
            caption = texts[".txt"].strip()
        return label, caption

    def note_unused(self) -> None:
        """Count the files that looked like sidecars but belong to no image."""
        unused = sum(len(found) for stem, found in self.readers.items() if stem not in self.used)
        self.listing.note("files that are not images", unused)
