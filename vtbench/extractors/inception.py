"""Features of the FID Inception under any named tool's resize, normalisation and precision.

The network is pinned by its content: the digest of its convolution and batch-norm tensors, whatever the file's format. The official
file, pytorch-fid's and torch-fidelity's hold a logits head too, which the Inception Score needs; a head-less file serves the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import numpy as np

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.errors import BadWeights, UsageError
from vtbench.extractors.precision import exact, pieces

if TYPE_CHECKING:
    import torch

FILES = (
    "inception/weights-inception-2015-12-05-6726825d.pth",
    "inception/pt_inception-2015-12-05-6726825d.pth",
    "inception/fid_inception_v3_pool3.safetensors",
)
WAY_OUT = (
    "Put weights-inception-2015-12-05-6726825d.pth (https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth) in a folder of VTBENCH_WEIGHTS"
)
# Files whose content is known, so that they need not be read again: the head-less conversion to safetensors.
KNOWN = {"sha256:1187e428a82651e94409755c27b92440b550fcfcd0a628d7ad802b646edce2ed": ""}
CONTENT = "sha256:2880397385c127930be1f918f46a156bdc0843c2c6d32bf5f131cc254f21ff9a"
HEADS = {"pool3": 2048, "sfid": 2023, "logits": 1008}
SCALES = ("128", "pm1")
DTYPES = ("float32", "float64", "bfloat16")
# Protocols differ in the resize far more often than in the network.
_OPEN: WeakValueDictionary[tuple[str, str, str, str], Any] = WeakValueDictionary()
_ARGS = {"resize": "tf1", "scale": "128", "dtype": "float32"}


def content_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Digest of the trunk alone: names, shapes and float32 values of its convolutions and batch norms, in order of name."""
    out = hashlib.sha256()
    for name in sorted(state):
        if ".conv." in name or (".bn." in name and not name.endswith("num_batches_tracked")):
            value = state[name].detach().float().cpu().contiguous().numpy().astype("<f4")
            out.update(f"{name}{value.shape}".encode())
            out.update(value.tobytes())
    return f"sha256:{out.hexdigest()}"


@lru_cache(maxsize=8)
def _inspect(path: Path, file_digest: str) -> tuple[str, str]:
    """(trunk digest, logits-head digest or "") of a file; `file_digest` makes a changed file another entry."""
    if file_digest in KNOWN:
        return CONTENT, KNOWN[file_digest]
    state = weights.load_state(path)
    head = state.get("fc.weight")
    if head is None:
        return content_digest(state), ""
    return content_digest(state), f"sha256:{hashlib.sha256(head.float().numpy().tobytes()).hexdigest()}"


def locate() -> Path:
    """The first of `FILES` on the weights' search path; raises `MissingWeights` with the way out."""
    return weights.find(FILES, what="the FID Inception of 2015-12-05", way_out=WAY_OUT)


class Inception:
    """Features of images: `pool3` ``[B, 2048]``, `sfid` ``[B, 2023]``, `logits` ``[B, 1008]`` (``[B, 0]`` without a head); float32.

    args: resize (`tf1`, `clean`, `half-pixel`, `antialias`; `vtbench.extractors.resample`), scale (`128`: (x - 128) / 128 of 0..255;
    `pm1`: 2 x - 1 of 0..1), dtype (`float32`; `float64`; `bfloat16` = autocast, which biases the features).
    """

    name = "inception"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        for key in args:
            if key not in _ARGS:
                raise UsageError(f"the extractor inception has no argument '{key}'", f"Known: {', '.join(_ARGS)}")
        chosen = {**_ARGS, **args}
        self.resize, self.scale, self.dtype = chosen["resize"], chosen["scale"], chosen["dtype"]
        if self.scale not in SCALES or self.dtype not in DTYPES:
            raise UsageError(
                f"the FID Inception has no scale '{self.scale}' with dtype '{self.dtype}'",
                f"scale: {', '.join(SCALES)}; dtype: {', '.join(DTYPES)}",
            )
        self._network: Any = None
        self._device = "cpu"

    def identity(self) -> Mapping[str, str]:
        """Digests of the trunk and of the logits head (`none` without one). Raises `BadWeights` for another trunk."""
        path = locate()
        trunk, head = _inspect(path, weights.digest(path))
        if trunk != CONTENT:
            raise BadWeights(
                f"{path} holds another network ({trunk[:23]}...) than the FID Inception of 2015-12-05 ({CONTENT[:23]}...)",
                WAY_OUT,
            )
        return {"trunk": trunk, "head": head or "none"}

    def open(self, device: str) -> None:
        """Load and fold the network, or take the one that another extractor of this process holds for the same weights and precision."""
        known = self.identity()
        key = (known["trunk"], known["head"], self.dtype, device)
        held = _OPEN.get(key)
        if held is None:
            self.use(weights.load_state(locate()), device)
            _OPEN[key] = self._network
        else:
            self._network, self._device = held, device

    def use(self, state: Mapping[str, torch.Tensor], device: str = "cpu") -> None:
        """Take this state dict, whatever it is: for tests, and for networks of one's own."""
        import torch

        from vtbench.extractors.inception_network import FIDInception

        network = FIDInception(state).to(device, torch.float64 if self.dtype == "float64" else torch.float32)
        self._network = network.to(memory_format=torch.channels_last)
        if device == "cpu" and self.dtype == "float32":
            self._network.prepack()
        self._device = device

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Four bytes a feature."""
        return 4 * sum(HEADS[h] for h in heads)

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        """``[B, 3, H, W]`` in [0, 1] as the network wants it: 299 x 299, normalised."""
        import torch

        from vtbench.extractors.inception_network import SIZE
        from vtbench.extractors.resample import resize

        if self.dtype == "float64":
            images = images.double()
        pixels = images * 255
        whole = pixels.round()
        # 8-bit pixels come as k / 255: their exact grey level, not the one a rounding error away from it.
        pixels = torch.where((pixels - whole).abs() < 1e-4, whole, pixels)
        pixels = resize(pixels, self.resize, SIZE)
        return (pixels - 128) / 128 if self.scale == "128" else pixels / 127.5 - 1

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Features of a batch."""
        import torch

        assert self._network is not None, "open() comes first"
        with exact(self._device):
            parts = []
            for images in pieces(batch.images.to(self._device)):
                x = self.prepared(images).contiguous(memory_format=torch.channels_last)
                with torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                    parts.append(self._network(x))
            found = {head: torch.cat(made) for head, made in zip(HEADS, zip(*parts))}
        return {h: Rows(found[h].float().cpu().numpy().astype(np.float32)) for h in heads}
