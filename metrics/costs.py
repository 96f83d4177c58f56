"""What a model costs: parameters, operations, speed, latency, memory; encoder and decoder apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from vtbench.api import Fields, Measurements, Need, Value, metric

_NO_NETWORK = "the model names no {half} network"
_NO_MEMORY = (
    "its memory cannot be read: the model runs in another process, or this machine does not tell the peak resident set"
)


def needs(*heads: str) -> Callable[[Fields], Mapping[str, Need]]:
    """Heads of the costs extractor, with the protocol's repeats."""

    def build(p: Fields) -> Mapping[str, Need]:
        args = tuple((key, int(p[key])) for key in ("repeats", "warmup"))
        return {head: Need("costs", head, args=args) for head in heads}

    return build


def _value(m: Measurements, head: str, why: str, scale: float = 1.0, piece: str = "all") -> Value:
    number = float(m[head].array()[0])
    if math.isnan(number):
        return Value(status="skipped", why=why, slice=piece, keep=False)
    notes = {"batch": int(m["batch"].array()[0])} if "batch" in m.columns else {}
    return Value(value=number * scale, n=1, slice=piece, notes=notes, keep=False)


@metric(
    "params_encoder",
    needs=needs("params_encoder"),
    unit="M",
    better="lower",
    fields=("repeats", "warmup"),
    title="Parameters that encoding uses, in millions",
)
def params_encoder(m: Measurements, p: Fields) -> Iterator[Value]:
    """Parameters of the encoder's modules; buffers (and codebooks kept as buffers) are not counted, shared ones count in both halves."""
    yield _value(m, "params_encoder", _NO_NETWORK.format(half="encoder"), 1e-6)


@metric(
    "params_decoder",
    needs=needs("params_decoder"),
    unit="M",
    better="lower",
    fields=("repeats", "warmup"),
    title="Parameters that decoding uses, in millions",
)
def params_decoder(m: Measurements, p: Fields) -> Iterator[Value]:
    """Parameters of the decoder's modules, as for the encoder."""
    yield _value(m, "params_decoder", _NO_NETWORK.format(half="decoder"), 1e-6)


def _gflops(m: Measurements, p: Fields, half: str) -> Value:
    """The counter calls a multiply-add two operations; the protocol says what a number of this table counts."""
    scale = float(p["flops_per_multiply_add"]) / 2 * 1e-9
    return _value(m, f"flops_{half}", f"no convolution, matrix product or attention was seen in {half}", scale)


@metric(
    "gflops_encode",
    needs=needs("flops_encode"),
    unit="GFLOP",
    better="lower",
    fields=("repeats", "warmup", "flops_per_multiply_add"),
    title="Operations to encode one image, in billions",
    source="torch.utils.flop_counter: convolutions, matrix products, attention",
)
def gflops_encode(m: Measurements, p: Fields) -> Iterator[Value]:
    """Floating-point operations for one image at the resolution of the row. flops_per_multiply_add: 2 (an operation each), or 1 for
    what fvcore and thop print as FLOPs."""
    yield _gflops(m, p, "encode")


@metric(
    "gflops_decode",
    needs=needs("flops_decode"),
    unit="GFLOP",
    better="lower",
    fields=("repeats", "warmup", "flops_per_multiply_add"),
    title="Operations to decode one image, in billions",
    source="torch.utils.flop_counter: convolutions, matrix products, attention",
)
def gflops_decode(m: Measurements, p: Fields) -> Iterator[Value]:
    """As `gflops_encode`, for the decoder with all its steps."""
    yield _gflops(m, p, "decode")


@metric(
    "encode_images_per_second",
    needs=needs("encode_images_per_second", "batch"),
    unit="images/s",
    better="higher",
    fields=("repeats", "warmup"),
    title="Images encoded per second, at the run's batch size",
    volatile=True,
)
def encode_images_per_second(m: Measurements, p: Fields) -> Iterator[Value]:
    """Batch size over the median time of `repeats` runs after `warmup`; the batch size stands in the notes."""
    yield _value(m, "encode_images_per_second", "nothing was timed")


@metric(
    "decode_images_per_second",
    needs=needs("decode_images_per_second", "batch"),
    unit="images/s",
    better="higher",
    fields=("repeats", "warmup"),
    title="Images decoded per second, at the run's batch size",
    volatile=True,
)
def decode_images_per_second(m: Measurements, p: Fields) -> Iterator[Value]:
    """As `encode_images_per_second`, for the decoder with all its steps."""
    yield _value(m, "decode_images_per_second", "nothing was timed")


@metric(
    "latency_ms",
    needs=needs("encode_latency", "decode_latency"),
    unit="ms",
    better="lower",
    fields=("repeats", "warmup"),
    title="Time for one image alone: the whole way, and each half",
    volatile=True,
)
def latency_ms(m: Measurements, p: Fields) -> Iterator[Value]:
    """Median milliseconds with a batch of one: `all` is the sum of the slices `half=encode` and `half=decode`."""
    halves = {half: float(m[f"{half}_latency"].array()[0]) * 1e3 for half in ("encode", "decode")}
    yield Value(value=sum(halves.values()), n=1, keep=False)
    for half, value in halves.items():
        yield Value(value=value, n=1, slice=f"half={half}", keep=False)


@metric(
    "peak_memory",
    needs=needs("peak_memory", "batch"),
    unit="MiB",
    better="lower",
    fields=("repeats", "warmup"),
    title="Most memory at once while encoding and decoding a batch",
    volatile=True,
)
def peak_memory(m: Measurements, p: Fields) -> Iterator[Value]:
    """On CUDA the most that was allocated, weights included; on a CPU the growth of the process's resident set, weights excluded."""
    yield _value(m, "peak_memory", _NO_MEMORY, 2**-20)
