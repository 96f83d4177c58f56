"""vtbench: what a visual tokenizer or an image generator is worth."""

from vtbench._version import __version__

__all__ = ["__version__"]
