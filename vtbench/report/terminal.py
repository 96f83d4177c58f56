"""Records for people: one table a suite and resolution, controls beside the model, skipped rows with their reasons below."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vtbench.record import Record, Row
from vtbench.records import label, piece
from vtbench.report.numbers import arrow, with_interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Column = tuple[str, int | None, str]
"""A column of the shown table: (run_id, tokens, params of the row)."""
Lines = Mapping[tuple[str, str, str], Mapping[Column, Row]]
"""The lines of the shown table: (metric, protocol, slice) -> its cells."""
LONGEST = 24
"""Characters of a metric's or a model's name on one line, where there is little room."""


def _column_title(record: Record, column: Column, several: bool) -> str:
    title = label(record)
    if column[2]:
        title = f"{record.model.name}:{column[2].replace(';', ',')}"
    lines = [title] if len(title) <= LONGEST else textwrap.wrap(title.replace(",", ", "), LONGEST)
    if several and column[1] is not None:
        lines.append(f"{column[1]} tokens")
    bpp = next((r.bpp for r in record.rows if r.tokens == column[1] and r.params == column[2] and r.bpp), None)
    if bpp is not None:
        lines.append(f"{bpp:.3g} bpp")
    return "\n".join(lines)


def show(
    records: Record | Sequence[Record],
    console: Console,
    *,
    everything: bool = False,
    beside: Sequence[Record] | None = None,
) -> None:
    """Print records side by side (the model first, then its controls): recommended protocols, or `everything`. beside: the records whose failures and
    alarms are told below, where they are others than those shown.

    Text from records is printed as it is: no markup in a model's name is obeyed."""
    from rich.text import Text

    records = [records] if isinstance(records, Record) else list(records)
    by_id = {record.run_id: record for record in records}
    groups: dict[tuple[str, int | None], dict[tuple[str, str, str], dict[Column, Row]]] = {}
    for record in records:
        for row in record.rows:
            if row.status == "skipped" or (not everything and not _shown(row)):
                continue
            lines = groups.setdefault((record.suite.name, row.resolution), {})
            cells = lines.setdefault((row.metric, row.protocol, piece(row.slice)), {})
            cells[(record.run_id, row.tokens, row.params)] = row
    for (suite, resolution), lines in groups.items():
        where = f"{suite} at {resolution} px" if resolution else f"{suite} at native size"
        title = f"{where}, {_data(records)}"
        columns = list(dict.fromkeys(column for cells in lines.values() for column in cells))
        columns.sort(key=lambda c: list(by_id).index(c[0]))
        console.print(Text(title, style="italic"), soft_wrap=True)
        for table in _fitting(lines, by_id, columns, console):
            console.print(table)
    hidden = 0 if everything else sum(not _shown(row) for record in records for row in record.rows)
    if hidden:
        more = (
            "1 more row (slices, other protocols) is"
            if hidden == 1
            else f"{hidden} more rows (slices, other protocols) are"
        )
        console.print(Text(f"{more} in table.csv", style="dim"))
    _below(records if beside is None else beside, console)


def _fitting(lines: Lines, by_id: Mapping[str, Record], columns: Sequence[Column], console: Console) -> Iterator[Table]:
    """One table where it fits the console; else with intervals below their values; else a line a model, where these are more than the metrics; else the
    columns over several tables."""
    whole = _table(lines, by_id, columns, narrow=False)
    if fits(whole, console):
        yield whole
        return
    if len(columns) > sum(not part.endswith(";of=std") for _, _, part in lines):
        down = _models_down(lines, by_id, columns)
        if fits(down, console):
            yield down
            return
    held: list[Column] = []
    for column in columns:
        if held and not fits(_table(lines, by_id, [*held, column], narrow=True), console):
            yield _table(lines, by_id, held, narrow=True)
            held = []
        held.append(column)
    yield _table(lines, by_id, held, narrow=True)


def fits(table: Table, console: Console) -> bool:
    """Whether a table is no wider than the console as it stands, with nothing folded."""
    return console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width


def ruled() -> Table:
    """An empty table as all of them look: a line below the heading, two spaces between columns, no edges."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _table(lines: Lines, by_id: Mapping[str, Record], columns: Sequence[Column], *, narrow: bool) -> Table:
    """One line a metric, protocol and slice that these columns have, one column a model and budget. narrow: intervals below their values."""
    from rich.text import Text

    budgets = {record: {c[1] for cells in lines.values() for c in cells if c[0] == record} for record in by_id}
    table = ruled()
    lines = {key: cells for key, cells in lines.items() if any(column in cells for column in columns)}
    sliced = any(part != "all" for _, _, part in lines)
    for heading in ("metric", *(["slice"] if sliced else []), "protocol"):
        table.add_column(heading, no_wrap=heading == "metric", overflow="fold")
    for column in columns:
        head = _column_title(by_id[column[0]], column, len(budgets[column[0]]) > 1)
        table.add_column(Text(head), justify="right", overflow="fold")
    last = ""
    for (metric, protocol, part), cells in lines.items():
        name = "" if metric == last else _name(metric, next(iter(cells.values())))
        if narrow and len(name) > LONGEST:
            name = name.replace(" (", "\n(")
        table.add_row(
            Text(name),
            *([Text("" if part == "all" else part)] if sliced else []),
            Text(protocol, style="dim"),
            *(_cell(cells.get(column), narrow) for column in columns),
        )
        last = metric
    return table


def _models_down(lines: Lines, by_id: Mapping[str, Record], columns: Sequence[Column]) -> Table:
    """A line a model and budget, a column a metric, intervals below their values: for a sweep. The spread over seeds is left to the table's file."""
    from rich.text import Text

    budgets = {record: {c[1] for c in columns if c[0] == record} for record in by_id}
    table = ruled()
    table.add_column("model")
    wanted = {key: cells for key, cells in lines.items() if not key[2].endswith(";of=std")}
    for (metric, protocol, part), cells in wanted.items():
        heads = (_name(metric, next(iter(cells.values()))), "" if part == "all" else part, protocol)
        table.add_column(Text("\n".join(filter(None, heads))), justify="right")
    for column in columns:
        head = _column_title(by_id[column[0]], column, len(budgets[column[0]]) > 1)
        table.add_row(Text(head), *(_cell(cells.get(column), True) for cells in wanted.values()))
    return table


def _name(metric: str, row: Row) -> str:
    return " ".join(filter(None, (metric, arrow(row.higher_is_better), _unit(row))))


def _shown(row: Row) -> bool:
    """Whether a row is among the first that a person wants: recommended, over all of the data or a size of its instances; of several seeds, the
    spread and the diversity too."""
    over_seeds = re.fullmatch(r"(features=\w+;)?seeds=\d+(;of=std)?", row.slice)
    return row.recommended and ("=" not in piece(row.slice) or over_seeds is not None)


def _unit(row: Row) -> str:
    return f"({row.unit})" if row.unit else ""


def _data(records: Sequence[Record]) -> str:
    names = dict.fromkeys(r.dataset.counted() for r in records)
    return ", ".join(names)


def _cell(row: Row | None, narrow: bool) -> Text:
    from rich.text import Text

    if row is None:
        return Text("")
    style = {"failed": "red", "partial": "yellow", "limited": "dim"}.get(row.status, "")
    text = "failed" if row.status == "failed" else with_interval(row)
    return Text(text.replace(" [", "\n[") if narrow else text, style=style)


def _below(records: Sequence[Record], console: Console) -> None:
    from rich.text import Text

    told: dict[str, dict[str, None]] = {}
    metrics: dict[str, dict[str, None]] = {}
    warnings: dict[str, dict[str, None]] = {}
    for record in records:
        for row in record.rows:
            if "warning" in row.notes and _shown(row):
                warnings.setdefault(str(row.notes["warning"]), {})[row.metric] = None
            if row.why and _shown(row):
                reason = row.why if row.status == "ok" else f"{row.status}: {row.why}"
                told.setdefault(reason, {})[label(record)] = None
                metrics.setdefault(reason, {})[row.metric] = None
    for warning, names in warnings.items():
        console.print(Text(f"{', '.join(names)}: {warning}", style="yellow"), soft_wrap=True)
    for reason, models in told.items():
        told_of = ", ".join(metrics[reason])
        console.print(Text(f"{_some(models)}: {told_of}: {reason}", style="dim"), soft_wrap=True)
    for record in records:
        if record.failures:
            first = record.failures[0]
            console.print(
                Text(
                    f"{label(record)}: {len(record.failures)} samples failed, first {first.id}: {first.reason}",
                    "yellow",
                ),
                soft_wrap=True,
            )
        for alarm in record.alarms:
            console.print(Text(f"{label(record)}: {alarm.name}: {alarm.message}", "bold yellow"), soft_wrap=True)
    limited = _some(dict.fromkeys(label(r) for r in records if r.status == "limited"))
    if limited:
        console.print(
            Text(f"{limited}: a limited run; its numbers stand for nothing but themselves", "dim"), soft_wrap=True
        )


def _some(names: Iterable[str], most: int = 4) -> str:
    """Names in one line: all of a few, else the first with the number of the others."""
    names = list(names)
    return (
        ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    )


def provenance(record: Record) -> Mapping[str, str]:
    """The lines that say where a record came from."""
    env = record.environment
    ours = " ".join(filter(None, (env.vtbench.version, env.vtbench.commit, "dirty" if env.vtbench.dirty else "")))
    lines = {
        "run": f"{record.run_id} ({record.status})",
        "command": record.command,
        "started": record.started,
        "finished": record.finished,
        "model": f"{label(record)} {record.model.revision}".strip(),
        "suite": f"{record.suite.name} version {record.suite.version} {record.suite.digest}".strip(),
        "data": f"{record.dataset.counted()} {record.dataset.revision}".strip(),
        "options": ", ".join(f"{k}={v}" for k, v in record.options.items()),
        "machine": ", ".join(filter(None, (env.device, env.driver, env.platform))),
        "numerics": f"dtype {env.dtype}, TF32 {env.tf32}, threads {env.threads}, batch size {env.batch_size}, seed {env.seed}",
        "vtbench": ours,
        "python": env.python,
        "packages": ", ".join(f"{k} {v}" for k, v in sorted(env.packages.items())),
        "weights": ", ".join(f"{k} {v}" for k, v in sorted(record.weights.items())),
        "time": ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in record.stages.items()),
    }
    return {key: text for key, text in lines.items() if text}
