"""Reconstructions that were made elsewhere: ``precomputed:DIR``, images paired with the originals by their ids.

``DIR/ID.png`` (or jpg, webp, ...), as large as the suite's prepared input. ``DIR/tokens.npz``, where there is one, holds their tokens
(`vtbench.zoo.paired.StoredTokens`), so that bits and codebook use are measured too.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from vtbench import weights as files
from vtbench.api import Capabilities
from vtbench.errors import BadData, BadSample, UsageError
from vtbench.zoo.paired import PairedImages, StoredTokens

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm")


class Precomputed(PairedImages):
    """A folder of reconstructions. Its revision is the digest of all its files, so a folder that changes is measured anew."""

    capabilities = Capabilities()

    def __init__(self, *, at: str) -> None:
        root = Path(at).expanduser()
        if not root.is_dir():
            raise UsageError(f"no folder of reconstructions {root}")
        self.where = str(root)
        self._files: dict[str, Path] = {}
        for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            name = path.relative_to(root).with_suffix("").as_posix()
            if name in self._files:
                raise BadData(
                    f"two reconstructions of '{name}': {self._files[name].name} and {path.name}", "Remove one"
                )
            self._files[name] = path
        if not self._files:
            raise BadData(f"{root} holds no images", f"Known: {' '.join(SUFFIXES)}")
        self.stored = StoredTokens.beside(root)
        self.revision = files.digest(root)

    @property
    def ids(self) -> Collection[str]:
        """The ids of the reconstructions."""
        return self._files.keys()

    def read(self, name: str) -> np.ndarray:
        """One reconstruction, uint8 ``[H, W, 3]``. Raises `BadSample`."""
        from vtbench.data.decode import decode

        path = self._files[name]
        try:
            return np.asarray(decode(path.read_bytes(), str(path), exif="ignore"))
        except OSError as error:
            raise BadSample(f"the reconstruction {path} cannot be read: {error.strerror or error}") from error
