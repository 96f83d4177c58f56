"""What a visual question answerer says of an image: the measurement behind DPG-Bench.

A judge is a name in `JUDGES` (or put there by `@judge`). The original's is mPLUG through modelscope's own pipeline.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.dpg import questions_of
from vtbench.errors import MissingWeights, UnknownName, UsageError
from vtbench.registry import load_plugins, resolve

HEADS = ("answer", "question", "picture")


class Judge(Protocol):
    """Answers questions. Constructed cheaply; `identity` and `open` as of an `Extractor`."""

    def identity(self) -> Mapping[str, str]: ...

    def open(self, device: str) -> None: ...

    def answer(self, image: np.ndarray, questions: Sequence[str]) -> list[str]:
        """The answer to each question about an image (uint8 RGB ``[H, W, 3]``), as the network writes it."""
        ...


JUDGES: dict[str, str | Callable[[], Judge]] = {"mplug-large": "vtbench.extractors.answers:MPLUG"}


def judge(name: str) -> Callable[[type], type]:
    """Register a judge class under a name."""

    def register(cls: type) -> type:
        JUDGES[name] = cls
        return cls

    return register


class MPLUG:
    """mPLUG (Li et al. 2022), `damo/mplug_visual-question-answering_coco_large_en`, in modelscope's pipeline, which runs the code of that package."""

    repository = "damo/mplug_visual-question-answering_coco_large_en"

    def __init__(self) -> None:
        self._pipeline: Any = None

    def identity(self) -> Mapping[str, str]:
        """The folder's digest. Raises `MissingWeights` with what to install, fetch and permit."""
        if importlib.util.find_spec("modelscope") is None:
            raise MissingWeights(
                "DPG-Bench's judge needs the package 'modelscope'", "pip install 'modelscope[multi-modal]'"
            )
        if not os.environ.get("VTBENCH_ALLOW_CODE"):
            raise MissingWeights(
                "DPG-Bench's judge runs modelscope's own code and opens pickled weights",
                "VTBENCH_ALLOW_CODE=1 permits it",
            )
        folder = weights.find(
            self.repository,
            what="mPLUG",
            way_out=f"modelscope download {self.repository}, into a folder of {weights.ENVIRONMENT}",
        )
        return {"weights": weights.digest(folder)}

    def open(self, device: str) -> None:
        """Build the pipeline from the local folder."""
        pipelines: Any = importlib.import_module("modelscope.pipelines")
        folder = weights.find(self.repository, what="mPLUG")
        self._pipeline = pipelines.pipeline("visual-question-answering", model=str(folder), device=device)

    def answer(self, image: np.ndarray, questions: Sequence[str]) -> list[str]:
        """The pipeline's texts."""
        from PIL import Image

        picture = Image.fromarray(image)
        return [str(self._pipeline({"image": picture, "question": q})["text"]) for q in questions]


class Answers:
    """One row per picture and question. args: `judge`; `pictures` of an image file: 1, or up to 4 in a 2 x 2 grid.

    Heads: `answer` (the text), `question` (its number), `picture`. Pictures in frame `source`. Questions come with the sample, whose digest has them."""

    name = "answers"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        name = str(args.get("judge") or "mplug-large")
        if name not in JUDGES:
            load_plugins()
        if name not in JUDGES:
            raise UnknownName("judge", name, JUDGES)
        target = JUDGES[name]
        self.judge: Judge = (resolve(target) if isinstance(target, str) else target)()
        self.pictures = int(args.get("pictures") or 1)
        if not 1 <= self.pictures <= 4:
            raise UsageError(f"{self.pictures} pictures in an image file", "1, or up to 4 in a 2 x 2 grid")

    def identity(self) -> Mapping[str, str]:
        """The judge's."""
        return {f"judge.{k}": v for k, v in self.judge.identity().items()}

    def open(self, device: str) -> None:
        """Load the judge."""
        self.judge.open(device)

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Ask every question of every picture."""
        image: list[int] = []
        found: dict[str, list[Any]] = {head: [] for head in HEADS}
        for position, sample in enumerate(batch.samples):
            questions = questions_of(sample.meta["dpg"])
            for number, picture in enumerate(cut(batch.images[position], self.pictures)):
                image += [position] * len(questions)
                found["answer"] += self.judge.answer(picture, [q.text for q in questions])
                found["question"] += [q.number for q in questions]
                found["picture"] += [number] * len(questions)
        kinds = {"answer": np.str_, "question": np.int32, "picture": np.int16}
        where = np.array(image, np.int64)
        return {head: Rows(np.array(found[head], kinds[head]), where) for head in heads}


def cut(image: np.ndarray, pictures: int) -> list[np.ndarray]:
    """The pictures of an image file: itself, or the first of a 2 x 2 grid, by rows."""
    if pictures == 1:
        return [image]
    height, width = image.shape[0] // 2, image.shape[1] // 2
    grid = [image[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    return [np.ascontiguousarray(part) for part in grid[:pictures]]
