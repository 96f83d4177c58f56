"""A `Tokenizer` whose work is done by a worker process."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.atomic import replace_file
from vtbench.errors import BadWeights, LostBatch, MissingWeights, VtbenchError
from vtbench.weights import digest
from vtbench.zoo.upstream import DESCRIPTION, place
from vtbench.zoo.upstream.process import Died, Fault, Process

if TYPE_CHECKING:
    from vtbench.zoo.card import Card

GIVEN = ("source", "weights", "device", "dtype")
PATIENCE = 3


class Upstream(Tokenizer):
    """A system behind a worker. The worker starts when it is first needed and is replaced when it is lost.

    A worker that died is replaced and asked once more. When that fails too, or the worker hung or wrote nonsense, the batch at hand is lost (`LostBatch`) and the next one gets a new worker; after
    `PATIENCE` losses in a row the run stops with `VtbenchError`."""

    @staticmethod
    def bound_to(card: Card) -> Callable[..., Upstream]:
        """The adapter of one card: a function whose parameters are those of its driver's `load`, for `vtbench.zoo.spec.user_params`."""
        recipe = card.recipe()
        if recipe is None:
            raise VtbenchError(f"the card {card.name} has no [upstream] table")
        module = place.driver(recipe.driver_file())
        hints = typing.get_type_hints(module.load)
        own = {n: p for n, p in inspect.signature(module.load).parameters.items() if n not in GIVEN}

        def make(
            *, card: Card, weights: Path | None = None, upstream: str | Path | None = None, **params: Any
        ) -> Upstream:
            return Upstream(card, weights, upstream, params)

        frame = [p for n, p in inspect.signature(make).parameters.items() if n != "params"]
        make.__signature__ = inspect.Signature([*frame, *own.values()])  # type: ignore[attr-defined]
        make.__annotations__ = {n: hints.get(n, Any) for n in own}
        return make

    def __init__(
        self,
        card: Card,
        weights: Path | None,
        upstream: str | Path | None,
        params: Mapping[str, Any],
        files: Mapping[str, Path] | None = None,
    ) -> None:
        """weights: what stood after ``--weights``; files: by role instead, found already."""
        recipe = card.recipe()
        assert recipe is not None
        self.card, self.recipe, self.params = card, recipe, dict(params)
        self.title = card.title or card.name
        self.name = card.name
        self.place = place.find(card, upstream)
        self.files = dict(files) if files is not None else card.locate(weights, params)
        self.driver = recipe.driver_file()
        self.revision = self._revision()
        self.notes: tuple[str, ...] = (f"{recipe.repository} at {self.place.commit}, run by {self.place.python}",)
        self._device, self._dtype = "cpu", "float32"
        self._process: Process | None = None
        self._description: dict[str, Any] | None = None
        self._streams: dict[str, Stream] = {}
        self._versions: dict[str, str] = {}
        self._losses = 0

    def _revision(self) -> str:
        """The digest of the weights' digests, the upstream commit and the driver's version."""
        parts = [f"{role} {digest(path)}" for role, path in sorted(self.files.items())]
        parts += [f"commit {self.place.commit}", f"driver {place.driver(self.driver).VERSION}"]
        return f"sha256:{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}"

    # ------------------------------------------------------------------------------------------- the worker

    def _running(self) -> Process:
        """The worker with the model in it. Raises `VtbenchError` when it cannot be had."""
        if self._process is not None and self._process.alive():
            return self._process
        process = Process(self.place.python, self.name, threads=torch.get_num_threads())
        folders = [str(Path(self.place.source, f)) for f in self.recipe.subfolders] or [self.place.source]
        arguments = {
            **self.params,
            "source": self.place.source,
            "weights": {role: str(path) for role, path in self.files.items()},
            "device": self._device,
            "dtype": self._dtype,
        }
        try:
            for message in (
                {"op": "open", "driver": str(self.driver), "path": folders},
                {"op": "load", "arguments": arguments},
            ):
                reply, _ = process.ask(message)
                if "error" in reply:
                    raise self._told(reply["error"], "load")
        except VtbenchError:
            process.close()
            raise
        if self._description is None:
            self._describe(reply["description"])
        self._versions = dict(reply["versions"])
        self._process = process
        return process

    def _ask(
        self, op: str, arrays: Mapping[str, np.ndarray] | None = None, options: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """One message to the worker and its answer's arrays."""
        for attempt in (1, 2):
            started = self._process is not None
            try:
                reply, out = self._running().ask({"op": op, "options": dict(options or {})}, arrays)
            except Died as fault:
                if not started:
                    raise VtbenchError(f"the worker of {self.title} {fault}", self._try()) from fault
                if attempt == 1:
                    continue
                raise self._lost(fault) from fault
            except Fault as fault:
                raise self._lost(fault) from fault
            if "error" in reply:
                raise self._told(reply["error"], op)
            self._losses = 0
            return out
        raise AssertionError("unreachable")

    def _lost(self, fault: Fault) -> VtbenchError:
        self._losses += 1
        told = f"the worker of {self.title} {fault}"
        if self._losses >= PATIENCE:
            return VtbenchError(f"{told} ({self._losses} times in a row)", "What was measured before is kept")
        return LostBatch(told)

    def _told(self, error: Mapping[str, Any], op: str) -> Exception:
        """An exception of the worker as one of ours."""
        told, bases = f"{error['type']}: {' '.join(str(error['message']).split())}"[:500], error["bases"]
        if error["memory"]:
            return torch.cuda.OutOfMemoryError(told)
        if "ModuleNotFoundError" in bases:
            return VtbenchError(
                f"the environment of {self.title} ({self.place.python}) lacks the package '{error['module']}'",
                self._try(),
            )
        if "FileNotFoundError" in bases:
            return MissingWeights(f"{self.title} misses a file ({told})")
        if op == "load" and "ValueError" in bases:
            return BadWeights(f"{self.title} cannot be loaded ({told})")
        last = [line.strip() for line in str(error["traceback"]).splitlines() if line.strip().startswith("File ")]
        return VtbenchError(
            f"{self.title} failed to {op} in its own code ({told})",
            f"At {last[-1].removeprefix('File ')}" if last else "",
        )

    def _try(self) -> str:
        return f"`vtbench models setup {self.card.name}` makes an environment that has what it needs"

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            self._process.close()
            self._process = None

    # ------------------------------------------------------------------------------------------- what it is

    def _describe(self, told: Mapping[str, Any]) -> None:
        unknown = set(told) - set(DESCRIPTION)
        if unknown or not told.get("streams"):
            raise VtbenchError(f"the driver {self.driver.name} describes {', '.join(sorted(unknown)) or 'no streams'}")
        known = {f.name for f in fields(Stream)}
        for table in told["streams"]:
            made: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items() if k in known}
            self._streams[table["name"]] = Stream(**made)
        self._description = dict(told)
        self.notes = (*self.notes, *told.get("notes", ()))

    def description(self) -> Mapping[str, Any]:
        """What the driver tells of the model: as remembered for these weights, code and parameters, else from the worker."""
        if self._description is None and (known := self._known()) is not None:
            self._describe(known)
        if self._description is None:
            self._process = self._first()
            with contextlib.suppress(OSError):  # a cache that cannot be written costs a start of the worker, no more
                replace_file(self._remembered(), json.dumps(self._description).encode())
        assert self._description is not None
        return self._description

    def _remembered(self) -> Path:
        """Where the description is kept, so that a dry run, a complete run or the parent of several devices need not load the model."""
        told = [self.revision, digest(self.driver), sorted(self.params.items())]
        name = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:32]
        return place.folder(self.recipe.driver) / "descriptions" / f"{name}.json"

    def _known(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._remembered().read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _first(self) -> Process:
        try:
            return self._running()
        except Fault as fault:
            raise VtbenchError(f"the worker of {self.title} {fault}", self._try()) from fault

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """As the driver describes them."""
        told = self.description()
        side = told.get("resolution")
        budgets = told.get("budgets")
        return Capabilities(
            prefix=bool(told.get("prefix")),
            max_tokens=told.get("max_tokens"),
            budgets=tuple(budgets) if budgets else None,
            any_resolution=side is None,
            resolution=side,
            multiple=int(told.get("multiple", 1)),
            stochastic=bool(told.get("stochastic")),
            needs_caption=bool(told.get("needs_caption")),
        )

    def parameter_counts(self) -> Mapping[str, int]:
        """Parameters of each half, as the driver counts them."""
        return dict(self.description().get("parameters", {}))

    def provenance(self) -> Mapping[str, Any]:
        """The authors' code, and the packages that the worker ran with (where it ran at all)."""
        return {"repository": self.recipe.repository, "commit": self.place.commit, "packages": self._versions}

    # ------------------------------------------------------------------------------------------- its work

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Encode in the worker. Raises `LostBatch` when it is lost on the way, `VtbenchError` when its tokens are not those that it describes."""
        options = self._options(condition, seeds, len(images))
        found = self._ask("encode", {"images": images.detach().float().cpu().numpy()}, options | {"sample": sample})
        lengths = found.pop("lengths", None)
        if set(found) != set(self._streams):
            raise VtbenchError(
                f"{self.title} encodes to {', '.join(sorted(found)) or 'nothing'}, not {', '.join(self._streams)}"
            )
        streams, data, shapes = [], {}, {}
        for name, array in found.items():
            stream, flat = self._laid(self._streams[name], array, len(images), 0 if lengths is None else -1)
            streams.append(stream)
            data[name] = torch.from_numpy(flat)
            shapes[name] = array.shape[1:]
        if lengths is not None and lengths.shape != (len(images),):
            raise VtbenchError(f"{self.title} gave lengths of shape {lengths.shape} for {len(images)} images")
        tokens = Tokens(
            tuple(streams),
            data,
            len(images),
            lengths=None if lengths is None else lengths.astype(np.int64),
            nmax=None if lengths is None else self.description().get("nmax") or self.description().get("max_tokens"),
            condition=condition if self.description().get("needs_caption") else None,
            extra=shapes,
        )
        return tokens if budget is None else self.prefix(tokens, budget)

    def _laid(self, stream: Stream, array: np.ndarray, count: int, low: int) -> tuple[Stream, np.ndarray]:
        """A stream's positions as ``[B, N]`` or ``[B, N, C]``, checked against what the stream is, and the stream with its real shape. low: -1 where positions may be unused."""
        deep = stream.kind in ("continuous", "soft", "bits") or (len(stream.sizes) > 1 and not stream.shared_index)
        place_axes = array.ndim - 1 - int(deep)
        whole = array.dtype.kind in "iub"
        if len(array) != count or place_axes not in (1, 2) or whole == (stream.kind in ("continuous", "soft")):
            raise VtbenchError(
                f"{self.title} encodes {count} images to {stream.name} of shape {array.shape} and type {array.dtype}, which does not fit {stream.kind} tokens"
            )
        shape = array.shape[1 : 1 + place_axes]
        flat = array.reshape(count, int(np.prod(shape)), *array.shape[1 + place_axes :])
        if whole:
            flat = flat.astype(np.int64)
            top = np.array(stream.sizes if deep and stream.sizes else stream.sizes[:1] or (2,))
            if flat.size and (flat.min() < low or bool((flat >= top).any())):
                raise VtbenchError(
                    f"{self.title} gave {stream.name} between {flat.min()} and {flat.max()} for a codebook of {', '.join(map(str, stream.sizes))}"
                )
        fits = int(np.prod(stream.shape, dtype=np.int64)) == flat.shape[1]
        return replace(stream, shape=stream.shape if fits and len(shape) == 1 else shape), flat

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Decode in the worker, from arrays in the shapes that its encode gave."""
        options = self._options(tokens.condition, seeds, len(tokens))
        arrays = {}
        shapes: Mapping[str, tuple[int, ...]] = tokens.extra or {}
        for stream in tokens.streams:
            flat = np.asarray(torch.as_tensor(tokens.data[stream.name]).cpu())
            shape = shapes.get(stream.name)
            if shape is not None and int(np.prod(shape)) == int(np.prod(flat.shape[1:])):
                flat = flat.reshape(len(flat), *shape)
            arrays[stream.name] = flat
        if tokens.lengths is not None:
            arrays["lengths"] = np.asarray(tokens.lengths, dtype=np.int64)
        first = next(iter(arrays.values()))
        cut = self.description().get("prefix") and first.shape[1] != self.description().get("max_tokens")
        out = self._ask("decode", arrays, options | ({"budget": int(first.shape[1])} if cut else {}))["images"]
        if out.ndim != 4 or out.shape[:2] != (len(tokens), 3) or out.dtype.kind != "f":
            raise VtbenchError(
                f"{self.title} decodes to shape {out.shape} of {out.dtype}, not [{len(tokens)}, 3, H, W]"
            )
        return torch.from_numpy(out.astype(np.float32, copy=False))

    def _options(
        self, condition: Sequence[Condition] | None, seeds: Sequence[int] | None, count: int
    ) -> dict[str, Any]:
        told = self.description()
        options: dict[str, Any] = {"seeds": [int(s) for s in seeds] if seeds is not None else [0] * count}
        if told.get("needs_caption"):
            options["captions"] = [c.caption for c in condition] if condition else [None] * count
        return options

    def prefix(self, tokens: Tokens, budget: int) -> Tokens:
        """The first `budget` tokens; of a model that decodes certain numbers only (whole scales), the greatest of them within the budget, at least the least."""
        budgets = self.description().get("budgets")
        if budgets:
            budget = max((b for b in budgets if b <= budget), default=min(budgets))
        return super().prefix(tokens, budget)

    def codebook(self) -> np.ndarray | None:
        """float32 ``[K, dims]``, where the driver gives one."""
        book = self._ask("codebook").get("codebook")
        return None if book is None else book.astype(np.float32)

    def to(self, device: str, dtype: str = "float32") -> Upstream:
        """The worker loads the model there; one that has it elsewhere ends."""
        if (device, dtype) != (self._device, self._dtype):
            self.close()
        self._device, self._dtype = device, dtype
        return self
