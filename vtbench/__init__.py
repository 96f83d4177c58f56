"""vtbench: what a visual tokenizer or an image generator is worth.

import vtbench
tok = vtbench.tokenizer(encode=model.encode_ids, decode=model.decode_ids, codebook_size=16384, value_range=(-1, 1), name="mine")
ev = vtbench.Evaluator(["reconstruction-256"], data="val.tar", subset="5k")
result = ev(tok, step=25_000)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtbench._version import __version__

if TYPE_CHECKING:
    from vtbench.comparison import compare
    from vtbench.evaluation import Evaluator, evaluate
    from vtbench.meter import Meter
    from vtbench.result import Result
    from vtbench.scoring import score
    from vtbench.zoo.wrapped import tokenizer
    from vtbench.zoo.wrapped_generator import generator

_EXPORTS = {
    "compare": "vtbench.comparison",
    "Evaluator": "vtbench.evaluation",
    "Meter": "vtbench.meter",
    "Result": "vtbench.result",
    "evaluate": "vtbench.evaluation",
    "generator": "vtbench.zoo.wrapped_generator",
    "score": "vtbench.scoring",
    "tokenizer": "vtbench.zoo.wrapped",
}

__all__ = ["Evaluator", "Meter", "Result", "__version__", "compare", "evaluate", "generator", "score", "tokenizer"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vtbench' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
