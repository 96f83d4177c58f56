"""The suites tokbench, tokbench-light and demo as data: what they pin, and what may be changed."""

from __future__ import annotations

import pytest

from vtbench import registry
from vtbench.errors import UnknownName, UsageError
from vtbench.extractors.easyocr import ENGLISH_G2
from vtbench.extractors.faces import PACKS
from vtbench.extractors.parseq import PARSEQ
from vtbench.extractors.rapidocr import PP_OCRV6_SMALL
from vtbench.suite import load_protocol, load_suite

SUITES = ("tokbench", "tokbench-light", "demo")


@pytest.mark.parametrize("name", SUITES)
def test_every_metric_knows_its_needs_at_every_resolution(name: str) -> None:
    suite = load_suite(name)
    assert suite.task == "reconstruct"
    for entry in suite.metrics:
        metric = registry.metric(entry.name)
        for protocol in entry.protocols:
            for resolution in suite.resolutions:
                fields = suite.protocols[protocol].fields(resolution)
                assert set(metric.fields) <= set(fields)
                for need in metric.needs(fields).values():
                    registry.extractor(need.extractor, dict(need.args))


@pytest.mark.parametrize("name", ["tokbench", "tokbench-light"])
def test_a_protocol_of_its_own_named_in_every_row(name: str) -> None:
    suite = load_suite(name)
    assert {p for entry in suite.metrics for p in entry.protocols} == {name}
    assert suite.resolutions == (256, 512, 1024)
    assert suite.data["reader"] == "tokbench"
    assert "non-commercial" in load_protocol(name).source


def test_networks_are_pinned() -> None:
    original, light, demo = (load_protocol(n).view for n in SUITES)
    assert (original["recogniser"], original["recogniser_weights"]) == ("parseq", PARSEQ)
    assert (light["recogniser"], light["recogniser_weights"]) == ("easyocr", ENGLISH_G2)
    assert (demo["recogniser"], demo["recogniser_weights"]) == ("rapidocr", PP_OCRV6_SMALL)
    assert (original["face_pack"], original["face_weights"]) == ("antelopev2", PACKS["antelopev2"].sha256)
    assert (light["face_pack"], light["face_weights"]) == ("buffalo_s", PACKS["buffalo_s"].sha256)


def test_light_differs_from_the_original_in_networks_and_filter_only() -> None:
    original, light = load_protocol("tokbench"), load_protocol("tokbench-light")
    assert original.input == light.input
    changed = {
        k for part in ("view", "reduce") for k, v in getattr(original, part).items() if getattr(light, part)[k] != v
    }
    assert changed == {"recogniser", "recogniser_weights", "face_pack", "face_weights", "refine"}


def test_intermediates_reach_the_reconstruction_but_never_the_original() -> None:
    for changes, container in (({}, "jpeg75"), ({"container": "lossless"}, "lossless")):
        protocol = load_protocol("tokbench-light").override(changes)
        needs = registry.metric("t_acc").needs(protocol.fields(256))
        assert needs["text"].view.container == container
        assert needs["text"].view.frame == needs["original"].view.frame == "source"
        assert needs["original"].view.container == "lossless"


def test_overrides_name_themselves() -> None:
    protocol = load_protocol("tokbench-light+refine=false+faces=v1")
    assert protocol.name == "tokbench-light+faces=v1+refine=false"
    assert protocol.digest() != load_protocol("tokbench-light").digest()
    for change in ("container=png", "quantise=floor", "restore=best"):
        with pytest.raises(UsageError, match="is one of"):
            registry.metric("f_sim").needs(load_protocol(f"tokbench+{change}").fields(256))
    with pytest.raises(UnknownName, match="recognizer"):
        load_protocol("tokbench+recognizer=easyocr")
    with pytest.raises(UsageError, match="is a table"):
        load_protocol("tokbench+text_bins=1")


def test_sizes_of_the_reference_page() -> None:
    bins = load_protocol("tokbench").reduce
    assert bins["text_bins"]["512"] == [0.01, 0.02, 0.03, 1.0]
    assert bins["face_bins"]["v2"]["1024"] == [0.02, 0.05, 0.1, 1.0]
    assert bins["face_bins"]["v1"]["512"] == [0.0, 0.05, 0.2, 1.0]
