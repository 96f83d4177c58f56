"""`vtbench.tokenizer`: plain functions as a model, for somebody who has one in memory, in a training loop for instance."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import UsageError
from vtbench.zoo.behind import checked_range, device_of, networks_of, revision_of, spelled


def tokenizer(
    encode: Callable[..., Any] | None = None,
    decode: Callable[..., Any] | None = None,
    *,
    reconstruct: Callable[..., Any] | None = None,
    codebook_size: int | Sequence[int] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    name: str = "mine",
    modules: Any = None,
    prefix: bool = False,
    resolution: int | None = None,
    multiple: int = 1,
    kind: str | None = None,
    params: Mapping[str, Any] | None = None,
    codebook: Callable[[], Any] | None = None,
    batch: bool = True,
) -> Wrapped:
    """A tokenizer from functions.

    encode: float32 images ``[B, 3, H, W]`` in `value_range` -> ids, integers ``[B, N]``, ``[B, h, w]``, or ``[B, N, C]`` with C = ``len(codebook_size)`` codebooks (floats are
    taken for continuous latents and have no bits). decode: what encode gave, of the same shape and type -> images in `value_range`. Or `reconstruct`: images -> images,
    which has no tokens to count. codebook_size: K, or one K a codebook. modules: the network (or several, or a mapping with `encoder` and `decoder`), from whose weights the revision is
    taken each time the model is measured, and which is in eval mode meanwhile; without it they are looked for behind the functions (bound methods, partials, closures), and it is
    warned when none is found (``modules=()``: there is none): then every measurement gets a revision of its own, so nothing stale is ever reused and nothing is ever resumed. A
    network of half-precision weights is given images of that precision. prefix: any first k of ``[B, N]`` ids decode. resolution: the only side it takes;
    multiple: sides must be multiples of it (the core pads). kind: `index`, `bits` or `continuous` when the dtype does not tell. codebook: gives float ``[K, dims]``. batch: False
    for functions that take one image at a time (still with a batch axis).

    Raises `UsageError` for functions that do not go together."""
    if reconstruct is not None and (encode is not None or decode is not None):
        raise UsageError("give either encode and decode, or reconstruct")
    if reconstruct is None and (encode is None or decode is None):
        raise UsageError("a tokenizer needs encode and decode, or reconstruct")
    low, high = checked_range(value_range)
    if prefix and encode is None:
        raise UsageError("only tokens have a prefix: give encode and decode")
    sizes: tuple[int, ...] = ()
    if codebook_size is not None:
        sizes = (codebook_size,) if isinstance(codebook_size, int) else tuple(int(k) for k in codebook_size)
    can = Capabilities(
        prefix=prefix,
        any_resolution=resolution is None,
        resolution=resolution,
        multiple=multiple,
        per_image_noise=batch,
    )
    functions = [f for f in (encode, decode, reconstruct) if f is not None]
    networks = networks_of(() if modules is None else modules, functions)
    if modules is None and not networks:
        warnings.warn(
            f"no network was found behind the functions of '{name}': it is measured in whatever mode it is in, and no measurement is used twice. Give modules=NETWORK, or modules=() if there is none",
            stacklevel=2,
        )
    return Wrapped(
        name,
        encode,
        decode,
        reconstruct,
        sizes,
        (low, high),
        networks,
        can,
        kind,
        dict(params or {}),
        codebook,
    )


class Wrapped(Tokenizer):
    """What `tokenizer` makes. The user's network is neither moved nor switched between training and evaluation here: the core does that around a measurement and undoes it."""

    def __init__(
        self,
        name: str,
        encode: Callable[..., Any] | None,
        decode: Callable[..., Any] | None,
        reconstruct: Callable[..., Any] | None,
        sizes: tuple[int, ...],
        value_range: tuple[float, float],
        networks: dict[str, torch.nn.Module],
        can: Capabilities,
        kind: str | None,
        params: dict[str, Any],
        codebook: Callable[[], Any] | None,
    ) -> None:
        self.name, self.capabilities, self.params = name, can, params
        self._encode, self._decode, self._reconstruct = encode, decode, reconstruct
        self._sizes, self._range, self._networks, self._kind, self._codebook = (
            sizes,
            value_range,
            networks,
            kind,
            codebook,
        )

    @property
    def revision(self) -> str:  # type: ignore[override]
        """The digest of the networks' present weights, of the functions' own code and of the codebook and range given; without a network, another one each
        time that it is asked for. Code that the functions call is not seen: only what they say themselves."""
        functions = [f for f in (self._encode, self._decode, self._reconstruct) if f is not None]
        around = [self._sizes, self._range, self._kind, [spelled(f) for f in functions]]
        return revision_of(self._networks, around)

    def _precision(self) -> torch.dtype:
        """float32, but for networks whose weights are all of one half precision."""
        found = {p.dtype for net in self._networks.values() for p in net.parameters() if p.is_floating_point()}
        return next(iter(found)) if found in ({torch.bfloat16}, {torch.float16}) else torch.float32

    def _inwards(self, images: torch.Tensor) -> torch.Tensor:
        low, high = self._range
        moved = images.to(device_of(self._networks), self._precision()) if self._networks else images
        return moved if (low, high) == (0.0, 1.0) else moved * (high - low) + low

    def _outwards(self, images: Any, like: int) -> torch.Tensor:
        low, high = self._range
        found = torch.as_tensor(images)
        if found.ndim != 4 or found.shape[0] != like or found.shape[1] != 3:
            raise ValueError(f"{self.name} gave images of shape {tuple(found.shape)}, not [{like}, 3, H, W]")
        found = found.float()
        return found if (low, high) == (0.0, 1.0) else (found - low) / (high - low)

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Call the user's encode. `UsageError` when its result is no array of ids, or an id lies outside the codebook."""
        inwards = self._inwards(images)
        if self._encode is None:
            assert self._reconstruct is not None
            out = self._outwards(self._reconstruct(inwards), len(images))
            stream = Stream("reconstruction", "continuous", "grid2d", shape=tuple(out.shape[2:]))
            return Tokens((stream,), {"reconstruction": out}, len(images), condition=condition)
        given = self._encode(inwards)
        ids = given if torch.is_tensor(given) else torch.as_tensor(np.asarray(given))
        if ids.ndim < 2 or ids.shape[0] != len(images):
            raise UsageError(
                f"encode of {self.name} gave shape {tuple(ids.shape)} for {len(images)} images",
                "Wanted: [B, N], [B, h, w] or [B, N, C]",
            )
        kind = self._kind or ("continuous" if ids.is_floating_point() else "index")
        shape, flat = self._laid(ids, kind)
        if kind == "index":
            self._inside(flat)
        layout: Any = "grid2d" if len(shape) == 2 else "seq1d"
        stream = Stream("tokens", kind, layout, self._sizes, shape, ordered=self.capabilities.prefix)  # type: ignore[arg-type]
        tokens = Tokens((stream,), {"tokens": flat}, len(images), condition=condition, extra=tuple(ids.shape[1:]))
        return tokens if budget is None else self.prefix(tokens, budget)

    def _laid(self, ids: torch.Tensor, kind: str) -> tuple[tuple[int, ...], torch.Tensor]:
        """How positions lie, and the ids as ``[B, N]`` or ``[B, N, C]``."""
        books = len(self._sizes)
        if kind == "continuous":
            return (int(ids.shape[1]),), ids.reshape(len(ids), ids.shape[1], -1)
        if not self._sizes and kind == "index":
            raise UsageError(
                f"{self.name} gives ids, but its codebook size is not known", "vtbench.tokenizer(..., codebook_size=K)"
            )
        many = books > 1 and ids.shape[-1] == books
        place = tuple(int(n) for n in (ids.shape[1:-1] if many else ids.shape[1:]))
        flat = ids.reshape(len(ids), -1, books) if many else ids.reshape(len(ids), -1)
        return place, flat

    def _inside(self, ids: torch.Tensor) -> None:
        top = torch.as_tensor(self._sizes if ids.ndim == 3 else self._sizes[:1], device=ids.device)
        if ids.numel() and (bool((ids < 0).any()) or bool((ids >= (top if ids.ndim == 3 else top[0])).any())):
            raise UsageError(
                f"encode of {self.name} gave an id of {int(ids.max())} (least {int(ids.min())}) for codebooks of {', '.join(map(str, self._sizes))}"
            )

    def prefix(self, tokens: Tokens, budget: int) -> Tokens:
        """The first `budget` ids."""
        ids = tokens.data["tokens"][:, :budget]
        stream = replace(tokens.streams[0], shape=(int(ids.shape[1]),), layout="seq1d")
        return replace(tokens, streams=(stream,), data={"tokens": ids}, extra=None)

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Call the user's decode on ids of the shape that its encode gave."""
        if self._decode is None:
            out: torch.Tensor = tokens.data["reconstruction"]
            return out
        ids = torch.as_tensor(tokens.data["tokens"])
        if self._networks:
            ids = ids.to(device_of(self._networks))
        if tokens.extra is not None:
            ids = ids.reshape(len(ids), *tokens.extra)
        return self._outwards(self._decode(ids), len(ids))

    def codebook(self) -> np.ndarray | None:
        """float ``[K, dims]``, where the user gave one."""
        if self._codebook is None:
            return None
        book = self._codebook()
        return np.asarray(book.detach().cpu() if torch.is_tensor(book) else book, dtype=np.float32)

    def modules(self) -> Mapping[str, Any]:
        """The networks found."""
        return dict(self._networks)
