"""What a generator costs: parameters, steps, seconds an image, tokens a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from vtbench.api import Fields, Measurements, Need, Value, metric

FIELDS = ("repeats", "warmup")


def needs(*heads: str) -> Callable[[Fields], Mapping[str, Need]]:
    """Heads of the extractor, with the protocol's repeats."""

    def build(p: Fields) -> Mapping[str, Need]:
        args = tuple((key, int(p[key])) for key in FIELDS)
        return {head: Need("generation_costs", head, args=args) for head in heads}

    return build


def _value(number: float, why: str, batch: float | None = None) -> Value:
    if math.isnan(number):
        return Value(status="skipped", why=why, keep=False)
    return Value(value=number, n=1, notes={} if batch is None else {"batch": int(batch)}, keep=False)


def _of(m: Measurements, head: str) -> float:
    return float(m[head].array()[0])


@metric(
    "params_generator",
    needs=needs("params_generator"),
    unit="M",
    better="lower",
    fields=FIELDS,
    title="Parameters of the network that makes tokens or latents, in millions",
)
def params_generator(m: Measurements, p: Fields) -> Iterator[Value]:
    """Parameters of the modules that the model calls its generator; a decoder and text encoders are not among them."""
    yield _value(_of(m, "params_generator") * 1e-6, "the model names no generator network")


@metric(
    "sampling_steps",
    needs=needs("steps"),
    fields=FIELDS,
    title="Steps of the sampler for one image",
)
def sampling_steps(m: Measurements, p: Fields) -> Iterator[Value]:
    """As the model says: diffusion steps, rounds of masked decoding, or tokens one after another. Guidance runs the network twice a step."""
    yield _value(_of(m, "steps"), "the model says no number of steps")


@metric(
    "seconds_per_image",
    needs=needs("seconds", "batch"),
    unit="s",
    better="lower",
    fields=FIELDS,
    title="Seconds to make one image, at the run's batch size",
    volatile=True,
)
def seconds_per_image(m: Measurements, p: Fields) -> Iterator[Value]:
    """The median time of a batch over its images, decoding and guidance included; the batch size stands in the notes."""
    batch = _of(m, "batch")
    yield _value(_of(m, "seconds") / max(batch, 1), "the images were made elsewhere", batch)


@metric(
    "tokens_per_second",
    needs=needs("seconds", "tokens", "batch"),
    unit="tokens/s",
    better="higher",
    fields=FIELDS,
    title="Tokens made per second, at the run's batch size",
    volatile=True,
)
def tokens_per_second(m: Measurements, p: Fields) -> Iterator[Value]:
    """Tokens of a batch over its time, decoding included."""
    rate = _of(m, "tokens") / _of(m, "seconds") if _of(m, "seconds") > 0 else math.nan
    yield _value(rate, "the model gives no tokens", _of(m, "batch"))
