"""Costs: parameters and operations against closed forms, times that are times, memory that grows with the model's."""

import math
import time

import numpy as np
import pytest
import torch

import vtbench
from vtbench import registry, zoo
from vtbench.api import Batch, Measurements
from vtbench.errors import UsageError
from vtbench.extractors.costs import HEADS, Costs
from vtbench.suite import load_protocol

IMAGES = torch.rand(3, 3, 16, 24)


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 3, bias=False)

    def forward(self, z):
        return self.linear(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.fixture
def model():
    encoder, decoder = Encoder(), Decoder()
    return vtbench.tokenizer(
        encode=lambda x: encoder(x).flatten(2).transpose(1, 2),
        decode=lambda z: decoder(z.transpose(1, 2).unflatten(2, (16, 24))),
        modules={"encoder": encoder, "decoder": decoder},
    )


def measure(model, heads=HEADS, images=IMAGES, budget=None, **args):
    extractor = Costs({"repeats": 2, "warmup": 1, **args})
    extractor.model, extractor.budget = model, budget
    rows = extractor(Batch([], images=images), list(heads))
    assert all(r.values.shape == (1,) and r.values.dtype == np.float64 for r in rows.values())
    return {head: float(r.values[0]) for head, r in rows.items()}


def test_parameters_and_operations_have_their_closed_forms(model):
    got = measure(model)
    assert got["params_encoder"] == 8 * 3 * 9 + 8 and got["params_decoder"] == 8 * 3
    assert got["flops_encode"] == 2 * 16 * 24 * 8 * 3 * 9  # a multiply-add is two; one image, whatever the batch
    assert got["flops_decode"] == 2 * 16 * 24 * 8 * 3
    assert got["batch"] == 3 and all(got[h] > 0 for h in HEADS if "memory" not in h)


def test_times_are_medians_of_real_runs():
    calls = []

    def encode(x):
        calls.append(len(x))
        time.sleep(0.02 * len(x))
        return torch.zeros(len(x), 4, dtype=torch.long)

    model = vtbench.tokenizer(encode=encode, decode=lambda i: torch.zeros(len(i), 3, 4, 4), codebook_size=2)
    got = measure(model, ("encode_latency", "encode_images_per_second", "batch"), repeats=3, warmup=1)
    assert got["encode_latency"] == pytest.approx(0.02, rel=0.5, abs=0.01)
    assert got["encode_images_per_second"] == pytest.approx(50, rel=0.5)
    assert calls == [1] * 4 + [3] * 4


def test_what_is_not_there_is_nan():
    got = measure(zoo.load("jpeg:quality=30"))
    assert all(math.isnan(got[h]) for h in ("params_encoder", "params_decoder", "flops_encode", "flops_decode"))
    assert got["encode_images_per_second"] > 0


def test_sides_are_padded_to_the_models_multiple():
    seen = []

    def encode(x):
        seen.append(tuple(x.shape[2:]))
        return torch.zeros(len(x), 1, dtype=torch.long)

    model = vtbench.tokenizer(
        encode=encode, decode=lambda i: torch.zeros(len(i), 3, 32, 32), codebook_size=2, multiple=32
    )
    measure(model, ("encode_latency",))
    assert set(seen) == {(32, 32)}


def test_a_budget_cuts_what_is_decoded():
    seen = []

    def decode(ids):
        seen.append(ids.shape[1])
        return torch.zeros(len(ids), 3, 4, 4)

    model = vtbench.tokenizer(
        encode=lambda x: torch.zeros(len(x), 9, dtype=torch.long), decode=decode, codebook_size=2, prefix=True
    )
    measure(model, ("decode_latency",), budget=4)
    assert set(seen) == {4}


@pytest.mark.skipif(not __import__("pathlib").Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_memory_sees_what_a_model_takes():
    def hungry(x):
        return x + torch.ones(32 << 20).sum() * 0  # 128 MiB for a moment

    model = vtbench.tokenizer(reconstruct=hungry)
    hungry(IMAGES)  # what an earlier run left in the allocator must not hide it
    assert 100 * 2**20 < measure(model, ("peak_memory",))["peak_memory"] < 200 * 2**20
    small = vtbench.tokenizer(
        reconstruct=lambda x: (
            torch.stack([x[0] + i for i in range(8000)]).mean(0, keepdim=True).expand(len(x), -1, -1, -1)
        )
    )
    small.decode(small.encode(IMAGES))  # 8000 small tensors: 37 MiB in the allocator's own arenas, stacked once more
    assert 60 * 2**20 < measure(small, ("peak_memory",))["peak_memory"] < 120 * 2**20


def test_unknown_arguments_and_heads():
    with pytest.raises(UsageError, match="no argument 'repeat'"):
        Costs({"repeat": 3})
    with pytest.raises(UsageError, match="no head 'speed'"):
        measure(zoo.load("resize"), ("speed",))


# ---------------------------------------------------------------------------------------------- metrics


class Column:
    def __init__(self, value):
        self._value = np.array([value])
        self.image = np.zeros(1, np.int64)

    def array(self):
        return self._value


def values(name, measured, **changes):
    fields = load_protocol("costs").fields(256) | changes
    metric = registry.metric(name)
    assert all(f in fields for f in metric.fields)
    needs = metric.needs(fields)
    assert all(need.extractor == "costs" and need.at.model() for need in needs.values())
    columns = {key: Column(measured[need.head]) for key, need in needs.items()}
    return {v.slice: v for v in metric.compute(Measurements(columns, {}, np.zeros(1, np.int64)), fields)}


MEASURED = {
    "params_encoder": 2.5e6,
    "params_decoder": float("nan"),
    "flops_encode": 4e9,
    "flops_decode": 8e9,
    "encode_images_per_second": 12.0,
    "decode_images_per_second": 6.0,
    "encode_latency": 0.1,
    "decode_latency": 0.3,
    "peak_memory": 2.0**30,
    "batch": 16.0,
}


def test_every_metric_of_the_protocol_has_its_unit():
    protocol = load_protocol("costs")
    got = {name: values(name, MEASURED)["all"] for name in protocol.metrics}
    assert (
        got["params_encoder"].value == 2.5 and got["gflops_encode"].value == 4.0 and got["gflops_decode"].value == 8.0
    )
    assert got["encode_images_per_second"].value == 12.0 and got["encode_images_per_second"].notes == {"batch": 16}
    assert got["peak_memory"].value == 1024.0
    assert got["params_decoder"].status == "skipped" and "no decoder network" in got["params_decoder"].why
    volatile = {name for name in protocol.metrics if registry.metric(name).volatile}
    assert volatile == {"encode_images_per_second", "decode_images_per_second", "latency_ms", "peak_memory"}


def test_latency_tells_the_halves_apart():
    got = values("latency_ms", MEASURED)
    assert got["half=encode"].value == pytest.approx(100) and got["half=decode"].value == pytest.approx(300)
    assert got["all"].value == pytest.approx(400)


def test_a_protocol_may_count_a_multiply_add_once():
    assert values("gflops_encode", MEASURED, flops_per_multiply_add=1)["all"].value == 2.0
    assert load_protocol("costs+flops_per_multiply_add=1").fields()["flops_per_multiply_add"] == 1


def test_costs_share_the_inputs_of_the_reconstruction_suites():
    assert load_protocol("costs").input == load_protocol("vtbench").input
