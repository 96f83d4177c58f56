"""Mean squared and mean absolute pixel error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from vtbench.api import Fields, Measurements, Need, Value, metric

from ._pixels import view_of


def needs(head: str) -> Callable[[Fields], Mapping[str, Need]]:
    """One head of the pixel extractor, under the protocol's quantisers."""

    def build(p: Fields) -> Mapping[str, Need]:
        return {"error": Need("pixels", head, view=view_of(p))}

    return build


@metric("mse", needs=needs("mse"), better="lower", fields=("quantise",), title="Mean squared error, pixels in [0, 1]")
def mse(m: Measurements, p: Fields) -> Iterator[Value]:
    """Mean squared error per image."""
    yield Value(samples=m["error"].array(), image=m["error"].image)


@metric("mae", needs=needs("mae"), better="lower", fields=("quantise",), title="Mean absolute error, pixels in [0, 1]")
def mae(m: Measurements, p: Fields) -> Iterator[Value]:
    """Mean absolute error per image."""
    yield Value(samples=m["error"].array(), image=m["error"].image)
