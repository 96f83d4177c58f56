"""What a model costs: parameters, operations, speed, memory; measured once per model on a real batch of its own input."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtbench.api import Batch, Condition, Rows, Tokenizer, Tokens
from vtbench.errors import UsageError
from vtbench.memory import giving_back

if TYPE_CHECKING:
    import torch

HEADS = (
    "params_encoder",
    "params_decoder",
    "flops_encode",
    "flops_decode",
    "encode_images_per_second",
    "decode_images_per_second",
    "encode_latency",
    "decode_latency",
    "peak_memory",
    "batch",
)
_ARGS = {"repeats": 5, "warmup": 2}


class Costs:
    """Costs of `model` (set by the core before the call), one float64 row a head; nan where there is nothing to measure.

    Heads: `params_encoder`, `params_decoder` (parameters of the modules that the model names for each half, shared ones in both), `flops_encode`, `flops_decode`
    (floating-point operations for one image: a multiply-add counts as two; convolutions, matrix products and attention alone, as
    `torch.utils.flop_counter` sees them), `encode_images_per_second`, `decode_images_per_second` (at the batch given), `encode_latency`, `decode_latency` (seconds for one
    image), `peak_memory` (bytes: on CUDA the most that was allocated, weights included; on Linux CPUs the growth of the resident set over encoding and
    decoding the batch, weights excluded), `batch` (images in it).

    args: repeats (the median of so many runs), warmup (runs before them). Each timed run covers the adapter's own conversions and ends with the device idle. Nothing here is
    repeatable to the bit; run it on an idle machine.
    """

    name = "costs"
    version = 1
    takes: Literal["model"] = "model"

    def __init__(self, args: Mapping[str, Any]) -> None:
        for key in args:
            if key not in _ARGS:
                raise UsageError(f"the extractor costs has no argument '{key}'", f"Known: {', '.join(_ARGS)}")
        chosen = {**_ARGS, **args}
        self.repeats, self.warmup = int(chosen["repeats"]), int(chosen["warmup"])
        if self.repeats < 1 or self.warmup < 0:
            raise UsageError("costs needs at least one repeat, and no negative warm-up")
        self.model: Tokenizer | None = None
        self.budget: int | None = None

    def identity(self) -> Mapping[str, str]:
        """Nothing but its args."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Nothing per sample: one row a model."""
        return 0

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure; `batch.images` float32 ``[B, 3, H, W]`` is a real input, `batch.samples` tell ids and captions."""
        import torch

        model = self.model
        if model is None:
            raise ValueError("the costs extractor was called without a model")
        for head in heads:
            if head not in HEADS:
                raise UsageError(f"the extractor costs has no head '{head}'", f"Known: {', '.join(HEADS)}")
        with torch.no_grad():
            found = _Measured(model, self.budget, batch, self.repeats, self.warmup)
            values = {head: getattr(found, head)() for head in heads}
        return {head: Rows(np.array([value], dtype=np.float64)) for head, value in values.items()}


class _Measured:
    """One model on one batch; encodes once, and again only to be timed."""

    def __init__(self, model: Tokenizer, budget: int | None, batch: Batch, repeats: int, warmup: int) -> None:
        from vtbench.hashing import seed_of

        self.model, self.repeats, self.warmup = model, repeats, warmup
        self.budget = budget if budget is not None else model.budget
        self.images = _padded(batch.images, model.capabilities.multiple)
        self.device = self.images.device
        known = list(batch.samples)
        names = [s.id for s in known] or [str(i) for i in range(len(self.images))]
        self.seeds = [seed_of(0, name, "costs") for name in names]
        self.condition = [Condition(s.id, s.label, s.caption) for s in known] or [Condition(name) for name in names]
        self._tokens: dict[int, Tokens] = {}
        self._times: dict[tuple[str, int], float] = {}

    # ---------------------------------------------------------------------------------- the model's halves

    def _encode(self, count: int) -> Tokens:
        images, condition, seeds = self.images[:count], self.condition[:count], self.seeds[:count]
        tokens = self.model.encode(images, condition=condition, seeds=seeds)
        return tokens if self.budget is None else self.model.prefix(tokens, self.budget)

    def _decode(self, count: int) -> torch.Tensor:
        if count not in self._tokens:
            self._tokens[count] = self._encode(count)
        return self.model.decode(self._tokens[count], seeds=self.seeds[:count])

    def _half(self, half: str, count: int) -> Callable[[], Any]:
        return (lambda: self._encode(count)) if half == "encode" else (lambda: self._decode(count))

    # ---------------------------------------------------------------------------------- what is measured

    def _params(self, half: str) -> float:
        return float(self.model.parameter_counts().get(half, float("nan")))

    def params_encoder(self) -> float:
        return self._params("encoder")

    def params_decoder(self) -> float:
        return self._params("decoder")

    def _flops(self, half: str) -> float:
        from torch.utils.flop_counter import FlopCounterMode

        run = self._half(half, 1)
        if half == "decode":
            run()  # so that encoding is not counted with it
        with FlopCounterMode(display=False) as counter:
            run()
        total = counter.get_total_flops()
        return float(total) if total else float("nan")

    def flops_encode(self) -> float:
        return self._flops("encode")

    def flops_decode(self) -> float:
        return self._flops("decode")

    def _time(self, half: str, count: int) -> float:
        """Median seconds of one run over `count` images."""
        if (half, count) not in self._times:
            run = self._half(half, count)
            times = []
            for i in range(self.warmup + self.repeats):
                self._wait()
                start = time.perf_counter()
                run()
                self._wait()
                if i >= self.warmup:
                    times.append(time.perf_counter() - start)
            self._times[half, count] = statistics.median(times)
        return self._times[half, count]

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def batch(self) -> float:
        return float(len(self.images))

    def encode_images_per_second(self) -> float:
        return len(self.images) / self._time("encode", len(self.images))

    def decode_images_per_second(self) -> float:
        return len(self.images) / self._time("decode", len(self.images))

    def encode_latency(self) -> float:
        return self._time("encode", 1)

    def decode_latency(self) -> float:
        return self._time("decode", 1)

    def peak_memory(self) -> float:
        import torch

        if self.model.provenance():
            return float("nan")  # it runs in another process, whose memory is not seen here
        count = len(self.images)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._tokens.pop(count, None)
            self._decode(count)
            self._wait()
            return float(torch.cuda.max_memory_allocated(self.device))
        self._tokens.clear()
        with giving_back():
            before = _resident_reset()
            if before is None:
                return float("nan")
            self._decode(count)
            peak = _status("VmHWM")
        return float("nan") if peak is None else float(max(0, peak - before))


def _padded(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Edges repeated up to the multiple that the model takes, as the core does."""
    import torch

    down, right = -images.shape[2] % multiple, -images.shape[3] % multiple
    return torch.nn.functional.pad(images, (0, right, 0, down), mode="replicate") if down or right else images


def _status(field: str) -> int | None:
    """A line of this process's /proc status in bytes; None where there is no such file."""
    try:
        text = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{field}:")), None)


def _resident_reset() -> int | None:
    """Resets the process's peak resident set (Linux); the present one in bytes, or None where that cannot be done.

    What the allocator keeps for later is given back first (glibc), or memory that earlier runs used would hide what this one uses."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")
