"""The contracts: what a model, an extractor and a metric are, and what passes between them.

Nothing here imports torch. Images are ``torch.Tensor`` float32 RGB in [0, 1], ``[B, 3, H, W]``, at every public
boundary; measurements and metrics are NumPy.
"""

from vtbench.api.extractors import EXTRACTORS, Batch, Extractor, Rows, extractor
from vtbench.api.metrics import METRICS, Column, Fields, Measurements, Metric, Value, metric
from vtbench.api.models import Capabilities, Generated, Generator, Model, Tokenizer
from vtbench.api.passes import GENERATED, INPUT, OUTPUT, Need, Pass, Placement, View
from vtbench.api.tokens import Condition, Kind, Layout, Stream, Tokens

__all__ = [
    "EXTRACTORS",
    "GENERATED",
    "INPUT",
    "METRICS",
    "OUTPUT",
    "Batch",
    "Capabilities",
    "Column",
    "Condition",
    "Extractor",
    "Fields",
    "Generated",
    "Generator",
    "Kind",
    "Layout",
    "Measurements",
    "Metric",
    "Model",
    "Need",
    "Pass",
    "Placement",
    "Rows",
    "Stream",
    "Tokenizer",
    "Tokens",
    "Value",
    "View",
    "extractor",
    "metric",
]
