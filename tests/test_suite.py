"""Suites and protocols: strict data, readable names."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtbench.errors import UnknownName, UsageError
from vtbench.suite import load_protocol, load_suite, protocol_names, suite_names


@pytest.mark.parametrize("name", suite_names())
def test_bundled_suites_load_and_name_known_metrics(name: str) -> None:
    from vtbench.registry import metric

    suite = load_suite(name)
    assert suite.name == name
    for entry in suite.metrics:
        declared = metric(entry.name)
        for protocol in entry.protocols:
            fields = suite.protocols[protocol].fields(256)
            assert set(declared.fields) <= set(fields), f"{protocol} lacks a field of {entry.name}"
            assert declared.needs(fields) is not None


@pytest.mark.parametrize("name", protocol_names())
def test_bundled_protocols_load(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name
    assert protocol.title


def test_an_override_is_part_of_the_name_and_of_the_digest() -> None:
    plain = load_protocol("tokbench-light")
    changed = load_protocol("tokbench-light+container=lossless")
    assert changed.name == "tokbench-light+container=lossless"
    assert changed.digest() != plain.digest()
    same = load_protocol(f"tokbench-light+container={plain.fields()['container']}")
    assert (same.name, same.digest()) == (plain.name, plain.digest())


def test_unknown_names_give_the_nearest() -> None:
    with pytest.raises(UnknownName, match="tokbench"):
        load_suite("tokbnech")
    with pytest.raises(UnknownName, match="container"):
        load_protocol("tokbench-light+containr=lossless")


def _write(folder: Path, body: str) -> str:
    path = folder / "mine.toml"
    path.write_text(body)
    return str(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("name = 'x'\nversion = 1\ntask = 'reconstruct'\n", "metrics"),
        ("name = [", "not a TOML file"),
        ("name = 'x'\nversion = 1\ntask = 'reconstruct'\ncolour = 1\nmetrics = []\n", "colour"),
        ("name = 'x'\nversion = 1\ntask = 'reconstruct'\nchunk = 0\nmetrics = []\n", "chunk"),
    ],
)
def test_a_bad_suite_file_is_a_usage_error(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_suite(_write(tmp_path, body))
