"""Any image autoencoder of the diffusers library, from a folder in its layout or from the hub's cache: ``diffusers:PATH_OR_ID``.

AutoencoderKL (and its kin with a posterior), AutoencoderTiny, AutoencoderDC, AutoencoderRAE: continuous latents. VQModel: its `encode` returns latents that are
not quantised yet, so the indices are taken from its quantiser here, and decoding starts from the codebook's entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vtbench import weights as files
from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadWeights, MissingPackage, MissingWeights, UsageError

if TYPE_CHECKING:
    from vtbench.zoo.card import Card

RANGES = {
    "AutoencoderKL": (-1.0, 1.0),
    "AsymmetricAutoencoderKL": (-1.0, 1.0),
    "AutoencoderKLFlux2": (-1.0, 1.0),
    "AutoencoderTiny": (-1.0, 1.0),
    "AutoencoderDC": (-1.0, 1.0),
    "AutoencoderRAE": (0.0, 1.0),
    "VQModel": (-1.0, 1.0),
}
"""The classes that are taken, with the pixel range at their boundary (AutoencoderTiny's network works in [0, 1] behind it)."""

_PARTS = ("vae", "vqvae", "vqgan", "movq")


def root_of(at: str, fetch: str) -> Path:
    """A local folder, one on the weights path, or a hub repository's cached snapshot. fetch: the way out for a repository. Raises `MissingWeights`."""
    root = Path(at).expanduser()
    if root.is_dir():
        return root
    try:
        return files.find(at)
    except MissingWeights as error:
        is_hub = at.count("/") == 1
        snapshot = files.hub_snapshot(at) if is_hub else None
        if snapshot is None:
            way = fetch if is_hub else "Give a folder or a hub id OWNER/NAME"
            raise MissingWeights(f"no folder {at}, and no such repository in the hub's cache", way) from error
        return snapshot


def locate(at: str) -> Path:
    """The folder with the autoencoder's ``config.json``: a local folder (a pipeline's too), one on the weights path, or a hub repository's cached snapshot.

    Raises `MissingWeights` with the command that fetches it."""
    root = root_of(at, f"`vtbench weights fetch hub:{at}` gets it")
    for folder in (root, *(root / part for part in _PARTS)):
        if (folder / "config.json").is_file():
            return folder
    raise BadWeights(f"{root} has no config.json of an autoencoder", "It is no folder in the layout of diffusers")


def _class_of(folder: Path) -> str:
    try:
        found = json.loads((folder / "config.json").read_text("utf-8")).get("_class_name", "")
    except (ValueError, AttributeError) as error:
        raise BadWeights(f"{folder / 'config.json'} is not JSON: {error}") from error
    if found not in RANGES:
        raise BadWeights(
            f"{folder} holds a {found or 'model without a class name'}, which is no image autoencoder that is known here",
            f"Known: {', '.join(RANGES)}",
        )
    return str(found)


@contextmanager
def loading(folder: Path, name: str, *loggers: Any) -> Iterator[None]:
    """Load a folder as a class of that name: its loggers are quiet, and what is wrong with its files comes out as `BadWeights`."""
    before = [log.get_verbosity() for log in loggers]
    for log in loggers:
        log.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadWeights(
            f"{folder} cannot be loaded as {name}: {reason}", "Its files are cut short, or of another model"
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise BadWeights(f"a weights file in {folder} is cut short ({error})", "Fetch it again") from error
    finally:
        for log, level in zip(loggers, before):
            log.set_verbosity(level)


def _load(folder: Path, name: str, variant: str | None) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingPackage("diffusers", "zoo", f"a model of class {name}") from error
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise UsageError(f"diffusers {diffusers.__version__} has no {name}", "pip install --upgrade diffusers")
    with loading(folder, name, diffusers.utils.logging):
        model, report = cls.from_pretrained(
            folder, local_files_only=True, variant=variant, torch_dtype=torch.float32, output_loading_info=True
        )
    faults = [
        f"{len(report[k])} {k.removesuffix('_keys')}: {', '.join(map(str, report[k][:3]))}"
        for k in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(k)
    ]
    if faults:
        raise BadWeights(
            f"the weights in {folder} do not fit their config.json: {'; '.join(faults)}",
            "They are of another model or version",
        )
    return model.eval().requires_grad_(False)


def _digest(folder: Path) -> str:
    """Of the configuration and the weights files."""
    kept = [p for p in sorted(folder.iterdir()) if p.name == "config.json" or p.suffix in (".safetensors", ".bin")]
    return files.joint_digest(kept)


class Diffusers(Tokenizer):
    """An autoencoder of diffusers. `variant`: of the weights files (``fp16``); the network computes in float32 unless told otherwise.

    A posterior gives its mode, or with `sample` a draw whose noise comes from each image's own seed."""

    def __init__(
        self, *, at: str = "", card: Card | None = None, weights: Path | None = None, variant: str | None = None
    ) -> None:
        where = str(weights) if weights is not None else at or (card.hub if card is not None else "")
        if not where:
            raise UsageError("diffusers needs a folder or a hub id", "--model diffusers:PATH_OR_ID")
        self.folder = locate(where)
        self.kind = _class_of(self.folder)
        self.model = _load(self.folder, self.kind, variant)
        self.revision = _digest(self.folder)
        self.range = RANGES[self.kind]
        self.params = {"at": at} if at else {}
        self.capabilities = self._can()

    def _can(self) -> Capabilities:
        config = self.model.config
        if self.kind == "AutoencoderRAE":
            return Capabilities(any_resolution=False, resolution=int(self.model.decoder_image_size))
        if self.kind == "AutoencoderDC":
            return Capabilities(multiple=int(self.model.spatial_compression_ratio))
        widths = (
            config.encoder_block_out_channels
            if self.kind == "AutoencoderTiny"
            else getattr(config, "block_out_channels", None) or config.down_block_out_channels
        )
        return Capabilities(multiple=2 ** (len(widths) - 1))

    def _enter(self, images: Tensor) -> Tensor:
        low, high = self.range
        first = next(self.model.parameters())
        return (images * (high - low) + low).to(first.device, first.dtype)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Continuous latents ``[B, h * w, C]``, or a VQModel's indices ``[B, h * w]``."""
        out = self.model.encode(self._enter(images))
        if self.kind == "VQModel":
            found = self.model.quantize(out.latents.float())[2][2].reshape(len(images), *out.latents.shape[2:])
            stream = Stream("tokens", "index", "grid2d", (int(self.model.quantize.n_e),), tuple(found.shape[1:]))
            return Tokens((stream,), {"tokens": found.flatten(1).long()}, len(images), condition=condition)
        if hasattr(out, "latent_dist"):
            z = _drawn(out.latent_dist, seeds) if sample else out.latent_dist.mode()
        else:
            z = out.latents if hasattr(out, "latents") else out.latent
        if z.ndim == 3:  # an AutoencoderRAE that keeps its encoder's sequence
            stream = Stream("latents", "continuous", "seq1d", shape=(z.shape[1],))
            return Tokens((stream,), {"latents": z}, len(images), condition=condition)
        stream = Stream("latents", "continuous", "grid2d", shape=tuple(z.shape[2:]))
        return Tokens((stream,), {"latents": z.flatten(2).transpose(1, 2)}, len(images), condition=condition)

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Latents or indices back to images."""
        first = next(self.model.parameters())
        (stream,) = tokens.streams
        data = torch.as_tensor(tokens.data[stream.name]).to(first.device)
        if self.kind == "VQModel":
            shape = (len(data), *stream.shape, int(self.model.quantize.vq_embed_dim))
            if self.model.config.lookup_from_codebook:
                out = self.model.decode(data.flatten(), force_not_quantize=True, shape=shape).sample
            else:
                entries = self.model.quantize.get_codebook_entry(data.flatten(), shape)
                out = self.model.decode(entries.to(first.dtype), force_not_quantize=True).sample
        else:
            grid = data if stream.layout == "seq1d" else data.transpose(1, 2).unflatten(2, stream.shape)
            out = self.model.decode(grid.to(first.dtype)).sample
        low, high = self.range
        return ((out.float() - low) / (high - low)).clamp(0, 1)

    def codebook(self) -> np.ndarray | None:
        """A VQModel's codebook, float32 ``[K, dims]``."""
        if self.kind != "VQModel":
            return None
        return self.model.quantize.embedding.weight.detach().float().cpu().numpy()

    def modules(self) -> Mapping[str, Any]:
        """Both halves, as far as the class has them under the usual names."""
        return {half: getattr(self.model, half) for half in ("encoder", "decoder") if hasattr(self.model, half)}

    def to(self, device: str, dtype: str = "float32") -> Diffusers:
        """Move the network."""
        self.model.to(device, getattr(torch, dtype))
        return self


def _drawn(posterior: Any, seeds: Sequence[int] | None) -> Tensor:
    """A draw from a diagonal Gaussian; each image's noise from its own seed, on the CPU."""
    mean = posterior.mean
    if seeds is None:
        raise UsageError("a sampled posterior needs one seed an image")
    noise = [torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return mean + posterior.std * torch.stack(noise).to(mean.device, mean.dtype)
