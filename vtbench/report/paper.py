"""A table for a paper: models by the columns that reviewers ask for, published rows beside measured ones, and what the caption must say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from vtbench.comparable import Entry, entries, overlap, published_entries, rankable, why_apart
from vtbench.errors import UnknownName
from vtbench.record import Record
from vtbench.records import label, piece, without_single_seeds
from vtbench.report.numbers import arrow
from vtbench.report.references import bibtex
from vtbench.report.sheet import Cell, Heading, Mark, Section, Sheet
from vtbench.reproduction import spelled

FACTS = ("tokens", "codebook", "bpp", "params", "resolution", "licence", "trained_on")
DEFAULT = "tokens,codebook,bpp,params,fid,psnr,ssim,lpips,t_acc,geneval"
GENERATORS = "tokens,params,sampling_steps,fid,sfid,inception_score,precision,recall,clip_score,cmmd,geneval,dpg_bench"
"""The columns that reviewers of generators ask for."""
_UNITS = {"params": "M", "resolution": "px"}


@dataclass
class Subject:
    """One line of the table: a model at an operating point, with everything known of it."""

    model: str
    tokens: int | None
    resolution: int | None
    card: Mapping[str, Any] = field(default_factory=dict)
    found: list[Entry] = field(default_factory=list)
    measured: bool = True

    def group(self) -> str:
        """Discrete or continuous tokens or a codec, and whether the data are those that it was trained on."""
        kind = str(self.card.get("kind", ""))
        if self.card.get("form") == "codec" or kind == "bytes":
            return "Codecs"
        sort = {"index": "Discrete tokens", "bits": "Discrete tokens", "continuous": "Continuous tokens"}.get(kind, "")
        if not sort:
            return "Controls" if self.card.get("route") == "control" else "Unstated"
        data = {e.dataset for e in self.found}
        trained = self.card.get("in_domain", ())
        if not trained and not self.card.get("trained_on"):
            return sort
        return (
            f"{sort}, {'in-domain' if any(d in trained or d.split('-')[0] in trained for d in data) else 'zero-shot'}"
        )


def subjects(records: Sequence[Record], lines: Iterable[Mapping[str, Any]]) -> list[Subject]:
    """Measured operating points, then published models."""
    out: dict[tuple[Any, ...], Subject] = {}
    for entry in entries(records):
        record = entry.record
        assert record is not None
        if entry.row.status == "skipped":
            continue  # it may lie at no operating point
        key = (entry.model, entry.row.tokens, entry.row.resolution)
        out.setdefault(key, Subject(*key, card=record.model.card)).found.append(entry)
    for entry in published_entries(lines):
        point = (entry.model, entry.row.tokens, entry.row.resolution)
        out.setdefault(
            (*point, "published"), Subject(*point, card=_published_card(entry), measured=False)
        ).found.append(entry)
    for subject in out.values():
        if not subject.measured:
            size = next((e.row for e in subject.found if e.row.metric == "codebook_size"), None)
            if size is not None and size.value is not None:
                count = int(size.slice.partition("=")[2] or 1)
                known = (
                    {"kind": "index", "codebook": [int(size.value)] * count}
                    if isfinite(size.value)
                    else {"kind": "continuous"}
                )
                subject.card = {**subject.card, **known}
    return list(out.values())


def _published_card(entry: Entry) -> dict[str, Any]:
    kind = re.search(r"type=([CD])\b", entry.params)
    return {"kind": {"C": "continuous", "D": "index"}[kind[1]]} if kind else {}


def pick_published(lines: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """The published lines of models whose name begins as one of `names` does, whatever its case and punctuation."""
    lines = list(lines)
    out = []
    for name in names:
        chosen = [line for line in lines if spelled(line["model"]).startswith(spelled(name))]
        if not chosen:
            raise UnknownName("published model", name, {str(line["model"]) for line in lines})
        out += chosen
    return out


@dataclass(frozen=True)
class Column:
    """A column as asked for: ``fid``, ``fid@clean``, ``t_acc:small``."""

    name: str
    protocol: str = ""
    slice: str = ""

    @classmethod
    def of(cls, text: str) -> Column:
        """Parse one column."""
        rest, _, piece = text.strip().partition(":")
        name, _, protocol = rest.partition("@")
        return cls(name, protocol, piece)

    def pick(self, subject: Subject) -> list[Entry]:
        """The entries of a subject that fit: the named protocol, else the recommended one; the named slice, else all, else mean."""
        rows = [e for e in subject.found if e.row.metric == self.name and e.row.status not in ("skipped", "failed")]
        if self.protocol:
            rows = [e for e in rows if e.row.protocol == self.protocol]
        else:
            rows = [e for e in rows if e.row.recommended]
        for wanted in (self.slice,) if self.slice else ("all", "mean"):
            chosen = [e for e in rows if wanted in (e.row.slice, piece(e.row.slice))]
            if chosen:
                return chosen
        return []


def sheet(found: Sequence[Subject], columns: Sequence[Column]) -> tuple[Sheet, str]:
    """The table and its BibTeX. Raises `UnknownName` for a column that no model has."""
    known = {e.row.metric for s in found for e in s.found} | set(FACTS)
    for column in columns:
        if column.name not in known:
            raise UnknownName("column", column.name, known)
    wanted = [c for c in columns if c.name not in FACTS]
    found = [s for s in found if s.measured or any(c.pick(s) for c in wanted)]
    sized = "resolution" in {c.name for c in columns}
    notes: list[str] = []
    unranked: dict[tuple[str, str], list[str]] = {}
    used: list[Entry] = []
    body: dict[int, list[Cell]] = {id(s): [Cell(s.model, dagger=not s.measured)] for s in found}
    headings = [Heading("model", left=True)]
    for column in columns:
        if column.name in FACTS:
            headings.append(
                Heading(column.name, unit=_UNITS.get(column.name, ""), left=column.name in ("licence", "trained_on"))
            )
            for subject in found:
                body[id(subject)].append(Cell(fact(subject, column.name)))
            continue
        cells = {id(s): column.pick(s) for s in found}
        firsts = [chosen[0] for chosen in cells.values() if chosen]
        marks: dict[int, Mark] = {}
        # Where a line says its resolution, each resolution has its own best.
        for size in dict.fromkeys(e.row.resolution if sized else None for e in firsts):
            marks |= _marks([e for e in firsts if not sized or e.row.resolution == size], unranked)
        used += firsts
        row = firsts[0].row if firsts else None
        name = " ".join(filter(None, (column.name, column.slice, f"({column.protocol})" if column.protocol else "")))
        headings.append(Heading(name, arrow(row.higher_is_better) if row else "", row.unit if row else ""))
        for subject in found:
            chosen = cells[id(subject)]
            body[id(subject)].append(Cell(chosen[0].text(), marks.get(id(chosen[0]), "")) if chosen else Cell("-"))
            others = {_elsewhere(e): None for e in chosen[1:] if e.row.value != chosen[0].row.value}
            if others:
                shown = _elsewhere(chosen[0]) if subject.measured else "sources disagree"
                notes.append(f"{subject.model}, {column.name}: {shown}, also {', '.join(others)}")
    sections: dict[str, Section] = {}
    groups = {id(s): s.group() for s in found}
    order = list(dict.fromkeys(groups.values()))
    families = list(dict.fromkeys(s.model.partition(":")[0] for s in found))
    for subject in sorted(
        found, key=lambda s: (order.index(groups[id(s)]), families.index(s.model.partition(":")[0]), _bits(s))
    ):
        title = groups[id(subject)] if len(set(groups.values())) > 1 else ""
        sections.setdefault(title, Section(title)).lines.append(body[id(subject)])
    for (model, reason), metrics in unranked.items():
        notes.append(f"{model}: not ranked with the others in {', '.join(dict.fromkeys(metrics))} ({reason})")
    text, lost = _bibliography(found, used)
    text += "".join(f"\n\n% no BibTeX is known for the data {' '.join(name.split())}" for name in lost)
    return Sheet(headings, list(sections.values()), "", caption(used), list(dict.fromkeys(notes))), text


def _elsewhere(entry: Entry) -> str:
    """A value with where it is from: the data that it was measured on, or the publication."""
    return f"{entry.text()} on {entry.dataset}" if entry.record is not None else f"{entry.text()} ({entry.row.source})"


def _bits(subject: Subject) -> float:
    return next((e.row.bpp for e in subject.found if e.row.bpp is not None), inf)


def _nominal(card: Mapping[str, Any], resolution: int | None) -> int | None:
    """The positions that a card states, at a resolution: those of a grid scale with the area. None where that cannot be told."""
    tokens, side = card.get("tokens"), card.get("resolution")
    if not tokens or card.get("kind") == "bytes":
        return None
    if resolution is None or side is None or resolution == side:
        return int(tokens)
    return round(tokens * (resolution / side) ** 2) if card.get("form") == "2d" else None


def fact(subject: Subject, name: str) -> str:
    """A fact of a model as text, `-` when unknown."""
    card = subject.card
    if name == "tokens":
        tokens = subject.tokens if subject.tokens is not None else _nominal(card, subject.resolution)
        return str(tokens) if tokens else "-"
    if name == "resolution":
        return str(subject.resolution or "native")
    if name == "bpp":
        return next((f"{e.row.bpp:.3g}" for e in subject.found if e.row.bpp is not None), "-")
    if name == "codebook":
        sizes = list(card.get("codebook", ()))
        if not sizes:
            return "continuous" if card.get("kind") == "continuous" else "-"
        same = len(set(sizes)) == 1
        return (f"{len(sizes)}×" if len(sizes) > 1 else "") + str(sizes[0]) if same else "×".join(map(str, sizes))
    if name == "params":
        if card.get("parameters") is not None:
            return f"{float(card['parameters']):.4g}"
        parts = ("params_encoder", "params_decoder")
        halves = [e.row.value for e in subject.found if e.row.metric in parts and e.row.value]
        whole = [e.row.value for e in subject.found if e.row.metric == "params_generator" and e.row.value]
        if whole:
            return f"{whole[0]:.4g}"
        return f"{sum(halves) / 1e6:.4g}" if halves and subject.measured else "-"
    if name == "licence":
        return str(card.get("weights_licence") or card.get("code_licence") or "-")
    return str(card.get("trained_on") or "-")


def _marks(firsts: Sequence[Entry], unranked: dict[tuple[str, str], list[str]]) -> dict[int, Mark]:
    """Best and second best among the largest set of entries that compare; everything that ties with the best by interval is best,
    and where everything ties there is no mark."""
    sets: list[list[Entry]] = []
    for entry in sorted(firsts, key=lambda e: e.record is None):
        if rankable(entry):
            continue
        for group in sets:
            if not why_apart(group[0], entry):
                group.append(entry)
                break
        else:
            sets.append([entry])
    if not sets:
        return {}
    group = max(sets, key=len)
    outside = [e for other in sets if other is not group for e in other]
    for entry in outside if len(group) > 1 else ():
        unranked.setdefault((entry.model, why_apart(group[0], entry)), []).append(entry.row.metric)
    for entry in firsts:
        reason = rankable(entry)
        if reason and entry.record is not None and entry.row.higher_is_better is not None:
            unranked.setdefault((entry.model, reason), []).append(entry.row.metric)
    if len(group) < 2:
        return {}
    up = bool(group[0].row.higher_is_better)
    ordered = sorted(group, key=lambda e: e.row.value or 0.0, reverse=up)
    best = [e for e in ordered if overlap(e.row, ordered[0].row)]
    if len(best) == len(group):
        return {}
    marks: dict[int, Mark] = {id(e): "best" for e in best}
    rest = [e for e in ordered if id(e) not in marks]
    if len(best) == 1 and rest:
        marks |= {id(e): "second" for e in rest if overlap(e.row, rest[0].row)}
    return marks


def _under(mine: Sequence[Entry], *, told: bool) -> list[str]:
    """Metrics by the protocol that they stand under, and (`told`) by the data that they were measured on."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for entry in mine:
        found.setdefault((entry.row.metric, entry.row.protocol), {})[entry.record.dataset.counted()] = None  # type: ignore[union-attr]
    rules: dict[tuple[str, str], list[str]] = {}
    for (metric, protocol), data in found.items():
        rules.setdefault((f" on {', '.join(data)}" if told else "", protocol), []).append(metric)
    return [f"{', '.join(metrics)}{on} under the protocol {protocol}" for (on, protocol), metrics in rules.items()]


def caption(used: Sequence[Entry]) -> str:
    """The methods sentence: data, size, protocols, intervals, marks and what the dagger means."""
    mine = [e for e in used if e.record is not None]
    said = []
    if mine:
        versions = dict.fromkeys(f"vtbench {e.record.environment.vtbench.version}".strip() for e in mine if e.record)
        data = dict.fromkeys(e.record.dataset.counted() for e in mine if e.record)
        sizes = dict.fromkeys(f"{e.row.resolution} px" if e.row.resolution else "native size" for e in mine)
        under = "; ".join(_under(mine, told=len(data) > 1))
        on = f" on {', '.join(data)}" if len(data) == 1 else ""
        said.append(f"Measured with {', '.join(versions)}{on} at {', '.join(sizes)}: {under}.")
        by = (
            "image for means, by prompt for GenEval"
            if any("geneval" in e.row.metric for e in mine)
            else "image for means"
        )
        seeds = (
            "; Student's t for means over seeds" if any("seeds" in e.record.options for e in mine if e.record) else ""
        )
        said.append(
            f"Digits are cut at the 95% interval (bootstrap by {by}, delete-group jackknife for set metrics{seeds})."
        )
        said.append(
            "Bold: best, underlined: second, among rows of one protocol, one resolution and one set of images; values whose intervals overlap share a mark."
        )
    if any(e.record is None for e in used):
        sources = dict.fromkeys(
            f"{e.row.source}{', protocol unstated' if e.row.protocol == 'unstated' else ''}"
            for e in used
            if e.record is None
        )
        said.append(f"† as published ({'; '.join(sources)}).")
    return " ".join(said)


def _bibliography(found: Sequence[Subject], used: Sequence[Entry]) -> tuple[str, list[str]]:
    cards = dict.fromkeys(str(s.card.get("bibtex", "")) for s in found)
    return bibtex((e.row.metric for e in used), (e.dataset for e in used), (e.row.protocol for e in used), cards)


def latest(records: Sequence[Record], *, each_seed: bool = False) -> list[Record]:
    """One record a model, budgets and suite: the latest, complete ones before limited ones; a summary over seeds in the place of its seeds,
    unless `each_seed`."""
    kept: dict[tuple[Any, ...], Record] = {}
    for record in sorted(
        records if each_seed else without_single_seeds(records), key=lambda r: (r.status != "limited", r.started)
    ):
        budgets = tuple(sorted({row.tokens or 0 for row in record.rows}))
        kept[(label(record), budgets, record.suite.name, record.dataset.name)] = record
    return list(kept.values())
