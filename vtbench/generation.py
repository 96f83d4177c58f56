"""Suites of generation: what images are made from, what they are held against, and which metrics apply to a generator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vtbench.against import Known, Reference
from vtbench.api import Model, Pass
from vtbench.data import Dataset, choose
from vtbench.data.conditions import labels, prompts
from vtbench.errors import UsageError
from vtbench.opened import Opened
from vtbench.options import Options
from vtbench.plan import Cell, Plan
from vtbench.progress import Silent
from vtbench.sets import restrict
from vtbench.suite import Suite

READERS = ("labels", "prompts", "geneval", "dpg")
IMAGES = 50_000


def open_generation(suite: Suite, options: Options, talk: Silent) -> Opened:
    """A suite of task `generate` with its conditions and its reference.

    The suite's ``[data]``: `reader` (`labels`: `classes`, `images`; `prompts`: a file, `each` images a prompt, `count` of the prompts); `bundled`, the file of prompts that the
    package carries; `reference`, bundled images or statistics; `needs_reference` (true unless no metric wants one); `exact`, whether images must have the suite's resolution.
    Raises `UsageError` for what is lacking, with what to give."""
    suite = _with_labels(suite, options.labels)
    conditions, where = _conditions(suite, options)
    for what, count in conditions.notes.items():
        talk.warn(f"{where}: {count} {what}")
    data = suite.data
    own = str(Path(__file__).parent / data["reference"]) if data.get("reference") else None
    held = options.reference or own
    reference = None
    if held is not None:
        known = {revision: name for name, revision in data.get("datasets", {}).items()}
        said = options.reference_protocol if options.reference else None
        reference = Reference.open(held, said, options, talk, known)
    elif data.get("needs_reference", True):
        raise UsageError(
            f"the suite {suite.name} needs --reference", data.get("hint", "Images, or statistics in an .npz")
        )
    if options.subset or options.limit:
        conditions = choose(conditions, subset=options.subset, limit=options.limit)
    dataset = reference.shown() if reference is not None else conditions
    return Opened(suite, dataset, held or where, conditions, reference)


def _conditions(suite: Suite, options: Options) -> tuple[Dataset, str]:
    """The suite's conditions, and where they come from."""
    data = suite.data
    reader = data.get("reader", "labels")
    if reader == "labels":
        if options.data:
            raise UsageError(
                f"the suite {suite.name} makes images from class labels: --data does not apply to it",
                "--reference names the images they are held against",
            )
        hows = {p.input["labels"] for p in suite.protocols.values() if "labels" in p.input}
        hows = hows or {options.labels or "balanced"}
        if len(hows) > 1:
            raise UsageError(
                f"the protocols of {suite.name} want labels that are {' and '.join(sorted(hows))}",
                "--labels balanced or --labels random chooses for all",
            )
        found = labels(int(data["classes"]), int(data.get("images", IMAGES)), hows.pop())
        return found, found.name
    if reader == "geneval":
        from vtbench.data.geneval import conditions

        return conditions(options.data), options.data or "geneval"
    if reader not in ("prompts", "dpg"):
        raise UsageError(f"{suite.path}: [data] reader is {' or '.join(READERS)}, not '{reader}'")
    bundled = data.get("bundled")
    where = options.data or (str(Path(__file__).parent / bundled) if bundled else "")
    if not where:
        raise UsageError(
            f"the suite {suite.name} needs --data", data.get("prompts_hint", "A file of prompts: .txt, .jsonl or .json")
        )
    if reader == "dpg":
        from vtbench.data.dpg import conditions as questioned

        return questioned(where), where
    each, count = int(data.get("each", 1)), int(data.get("count", 0))
    found = prompts(where, each=each, count=count, limit=options.limit and -(-options.limit // each))
    name = {revision: key for key, revision in data.get("prompts", {}).items()}.get(found.revision, found.name)
    return replace(found, name=name), options.data or f"bundled:{bundled}"


def _with_labels(suite: Suite, how: str | None) -> Suite:
    """The suite with another rule for class labels in every protocol that names one; their names say so."""
    if how is None:
        return suite
    if suite.data.get("reader", "labels") != "labels":
        raise UsageError(f"the suite {suite.name} has no class labels", "Leave --labels away")
    renamed = {name: p.override({"labels": how}) if "labels" in p.input else p for name, p in suite.protocols.items()}
    metrics = tuple(
        replace(m, protocols=tuple(renamed[p].name for p in m.protocols), recommended=renamed[m.recommended].name)
        for m in suite.metrics
    )
    return replace(suite, protocols={p.name: p for p in renamed.values()}, metrics=metrics)


def fit_plan(plan: Plan, opened: Opened, model: Model, known: Known) -> Plan:
    """The plan without what does not apply to images made from conditions."""

    def decide(cell: Cell) -> tuple[str, Iterable[str]]:
        why = _needs_an_input(cell) or _needs_tokens(cell, model, known)
        if why:
            return why, ()
        if opened.reference is None:
            wants = any(s.at.op == "load" for s, _ in cell.needs.values())
            return ("needs a reference: --reference" if wants else ""), ()
        return opened.reference.decide(cell, known)

    plan = restrict(plan, decide)
    if opened.reference is not None:
        opened.reference.useful(plan, known)
        plan = opened.reference.without_looks(plan)
    return plan


def _needs_an_input(cell: Cell) -> str:
    def encodes(at: Pass | None) -> bool:
        return at is not None and (at.op in ("run", "decode") or encodes(at.of))

    if any(encodes(station.at) for station, _ in cell.needs.values()):
        return "needs an encoder, and a generator has none"
    return ""


def _needs_tokens(cell: Cell, model: Model, known: Known) -> str:
    kinds = {known[s.extractor, s.args][0] for s, _ in cell.needs.values() if (s.extractor, s.args) in known}
    if any(e.takes == "encoder" for e in kinds):
        return "needs an encoder, and a generator has none"
    if any(e.takes == "tokens" for e in kinds) and not model.capabilities.gives_tokens:
        return f"{model.name} gives no tokens"
    if any(e.name == "costs" for e in kinds):
        return "is a cost of tokenizers; a generator has those of the protocol generation-costs"
    return ""
