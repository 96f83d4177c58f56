"""A suite with the data that it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtbench.against import Reference
from vtbench.api import Condition, Generator, Model
from vtbench.data import Dataset, choose, open_dataset
from vtbench.engine.chunks import Chunk
from vtbench.errors import UsageError
from vtbench.options import Options
from vtbench.plan import Plan
from vtbench.progress import Silent, hashing
from vtbench.sets import only
from vtbench.suite import Suite


@dataclass
class Opened:
    """A suite with its data, opened once; where: as given, or `bundled:NAME`.

    Of a suite of generation, conditions are what images are made from, reference what they are held against (None: the suite needs none), and dataset what
    the record calls the data: the reference, else the conditions. given: images that exist already and are held against the reference as a set, their number."""

    suite: Suite
    dataset: Dataset
    where: str
    conditions: Dataset | None = None
    reference: Reference | None = None
    given: int = 0

    def made(self) -> int:
        """How many images are held against the data as a set of their own; 0 where each has its original there."""
        return len(self.conditions.samples) if self.conditions and self.reference else self.given

    def moving(self) -> dict[str, Any]:
        """What the data of a suite of generation add to a run's id: the conditions, and statistics that stand for the reference."""
        if self.conditions is None:
            return {}
        named = {"conditions": self.conditions.name, "conditions_revision": self.conditions.revision}
        return {**named, **(self.reference.moving() if self.reference else {})}

    def meet(self, model: Model, *, whole: bool) -> None:
        """Refuse a generator in a suite of reconstruction, and a tokenizer in one of generation; tell a generator its conditions (whole: all of the suite's)."""
        if isinstance(model, Generator) and self.conditions is not None:
            conditions = [Condition(s.id, s.label, s.caption) for s in self.conditions.samples]
            _useful(model, conditions, self.suite)
            model.expect(conditions, whole=whole)
        elif isinstance(model, Generator) and self.suite.task == "score":
            raise UsageError(
                f"{model.name} is a generator: explain and audit take what it made",
                "Keep it with vtbench generate --keep-images all, and give the folder generated/ and the reference",
            )
        elif isinstance(model, Generator) or self.conditions is not None:
            kind, command = (
                ("a generator", "generate") if isinstance(model, Generator) else ("a tokenizer", "reconstruct")
            )
            raise UsageError(
                f"{model.name} is {kind}, and the suite {self.suite.name} is one of task '{self.suite.task}'",
                f"vtbench {command} --model {model.name} takes it",
            )

    def two_sides(self, plan: Plan, images: list[Chunk], title: str) -> list[tuple[str, list[Chunk], Plan]]:
        """Images and the reference that they are held against, with the stations of each."""
        sides = [(title, images, only(plan, lambda s: s.at.model()))]
        if self.reference is not None:
            truth, name = self.reference.chunks(self.suite.chunk), f"reference · {self.suite.name}"
            sides.append((name, truth, only(plan, lambda s: not s.at.model())))
        return sides


def _useful(model: Generator, conditions: Sequence[Condition], suite: Suite) -> None:
    """Refuse a generator of labels where there are prompts alone, and the other way round: no image could be made."""
    can = model.capabilities
    if can.classes is not None and all(c.label is None for c in conditions):
        raise UsageError(
            f"{model.name} makes images from class labels, and the suite {suite.name} has prompts",
            "Such as --suite generation-imagenet-256",
        )
    if can.needs_caption and not any(c.caption for c in conditions):
        raise UsageError(
            f"{model.name} makes images from prompts, and the suite {suite.name} has class labels",
            "Such as --suite generation-coco --data captions_val2014.json",
        )


def open_images(suite: Suite, options: Options, talk: Silent) -> Opened:
    """A suite of reconstruction with its images. `UsageError` when it has none of its own and none were given."""
    bundled = suite.data.get("bundled")
    where = options.data or (str(Path(__file__).parent / bundled) if bundled else "")
    if not where:
        raise UsageError(
            f"the suite {suite.name} needs --data", f"Give {suite.data.get('hint', 'a folder, a tar or a dataset')}"
        )
    dataset = open_dataset(
        where,
        reader=suite.data.get("reader", "images"),
        options={"metadata": options.metadata} if options.metadata else {},
        known={revision: key for key, revision in suite.data.get("datasets", {}).items()},
        cache=options.cache(),
        progress=hashing(talk, where),
        limit=options.read_limit(),
    )
    if options.subset or options.limit:
        dataset = choose(dataset, subset=options.subset, limit=options.limit)
    for what, count in dataset.notes.items():
        talk.say(f"{where}: {count} {what}")
    return Opened(suite, dataset, options.data or f"bundled:{bundled}")
