"""`score` of images that were made from prompts and are judged alone, without a reference: GenEval's layout brings its prompts along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtbench.api import Condition
from vtbench.errors import UsageError
from vtbench.evaluation import Evaluator
from vtbench.progress import Silent
from vtbench.result import Result
from vtbench.suite import Suite, load_suite
from vtbench.zoo.images import Images, condition_key

LAYOUTS = ("geneval",)
"""Readers of conditions that find prompts beside the images."""


class ImagesOfPrompts(Images):
    """Images in a layout that names their prompts; what is missing or too many has been said where the prompts were read."""

    def __init__(self, *, at: str, name: str | None = None) -> None:
        super().__init__(at=at)
        self.name = name or Path(at.rstrip("/")).resolve().name
        self.params = {}

    def expect(self, conditions: Sequence[Condition], *, whole: bool) -> None:
        """Anything: images without a prompt are left out, and prompts without an image fail one by one."""
        if not {condition_key(c.id) for c in conditions} & {*self._named, *self._broken}:
            raise UsageError(
                f"no image in {self.where} belongs to a prompt", "GenEval's layout has them in 00000/samples/00000.png"
            )


def alone(suites: Sequence[str | Suite]) -> bool:
    """Whether images are judged by these suites alone, with the prompts beside them."""
    loaded = [s if isinstance(s, Suite) else load_suite(s) for s in suites]
    return all(s.task == "generate" and s.data.get("reader") in LAYOUTS for s in loaded)


def score_alone(
    images: str, suites: Sequence[str | Suite], *, name: str | None = None, talk: Silent | None = None, **options: Any
) -> Result:
    """Judge the images of a folder. options: as for `Evaluator`."""
    evaluator = Evaluator(tuple(suites), talk=talk, data=images, **{"baselines": False, **options})
    return evaluator(ImagesOfPrompts(at=images, name=name))
