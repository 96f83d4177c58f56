"""`vtbench.metrics.*` are the files of the top-level folder `metrics/`, which holds no `__init__.py`."""

from vtbench._source import folder

__path__ = [str(folder("metrics"))]
