"""A table of models by columns, and its spellings: Markdown, LaTeX (booktabs), HTML, CSV. Everything is escaped here and nowhere else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from vtbench.report.delta import escaped as markdown_escaped
from vtbench.table import csv_text

Mark = Literal["", "best", "second"]


@dataclass(frozen=True)
class Heading:
    """A column. arrow: the direction of a metric."""

    name: str
    arrow: str = ""
    unit: str = ""
    left: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell's text, whether it is the best or second best, and a dagger for what is only published."""

    text: str = ""
    mark: Mark = ""
    dagger: bool = False


@dataclass
class Section:
    """Lines under a common heading (empty: none)."""

    title: str
    lines: list[list[Cell]] = field(default_factory=list)


@dataclass
class Sheet:
    """A whole table. caption: one paragraph; notes: lines below."""

    headings: list[Heading]
    sections: list[Section]
    title: str = ""
    caption: str = ""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[list[Cell]]:
        """Every line of every section."""
        for section in self.sections:
            yield from section.lines


def markdown(sheet: Sheet) -> str:
    """GitHub's Markdown."""
    out = [f"### {markdown_escaped(sheet.title)}", ""] if sheet.title else []
    heads = [
        " ".join(filter(None, (markdown_escaped(h.name), h.arrow, f"({h.unit})" if h.unit else "")))
        for h in sheet.headings
    ]
    out.append("| " + " | ".join(heads) + " |")
    out.append("|" + "|".join("---" if h.left else "---:" for h in sheet.headings) + "|")
    for section in sheet.sections:
        if section.title:
            out.append("| " + " | ".join([f"*{markdown_escaped(section.title)}*", *[""] * (len(heads) - 1)]) + " |")
        for line in section.lines:
            out.append("| " + " | ".join(_markdown_cell(cell) for cell in line) + " |")
    if sheet.caption:
        out += ["", markdown_escaped(sheet.caption)]
    out += ["", *(f"- {markdown_escaped(note)}" for note in sheet.notes)] if sheet.notes else []
    return "\n".join(out) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = markdown_escaped(cell.text)
    text = {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(cell.mark, text)
    return text + ("†" if cell.dagger else "")


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$^\dagger$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", '"': "''",
}  # fmt: skip


def tex(text: str) -> str:
    """Text for LaTeX: no character of it is a command."""
    return "".join(_TEX.get(c, c) for c in " ".join(text.split()) if c.isprintable())


def latex(sheet: Sheet, label: str = "tab:tokenizers") -> str:
    """A booktabs table with its caption."""
    columns = "".join("l" if h.left else "r" for h in sheet.headings)
    heads = [tex(" ".join(filter(None, (h.name, f"({h.unit})" if h.unit else "", h.arrow)))) for h in sheet.headings]
    out = ["% \\usepackage{booktabs}", "\\begin{table}", "\\centering"]
    if sheet.caption:
        out.append(f"\\caption{{{tex(sheet.caption)}}}")
    out += [f"\\label{{{label}}}", f"\\begin{{tabular}}{{{columns}}}", "\\toprule", " & ".join(heads) + r" \\"]
    for section in sheet.sections:
        out.append("\\midrule")
        if section.title:
            out.append(f"\\multicolumn{{{len(heads)}}}{{l}}{{\\emph{{{tex(section.title)}}}}} \\\\")
        out += [" & ".join(_tex_cell(cell) for cell in line) + r" \\" for line in section.lines]
    out += ["\\bottomrule", "\\end{tabular}", "\\end{table}"]
    out += [f"% {_one_line(note)}" for note in sheet.notes]
    return "\n".join(out) + "\n"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _tex_cell(cell: Cell) -> str:
    text = cell.text
    if text in ("inf", "-inf"):
        shown = r"$\infty$" if text == "inf" else r"$-\infty$"
    elif re.fullmatch(r"-[\d.]+(e[+-]?\d+)?", text):
        shown = f"${text}$"
    else:
        shown = tex(text)
    shown = {"best": f"\\textbf{{{shown}}}", "second": f"\\underline{{{shown}}}"}.get(cell.mark, shown)
    return shown + (r"$^\dagger$" if cell.dagger else "")


def html_table(sheet: Sheet) -> str:
    """A bare ``<table>`` with its notes; `html_page` makes a page of it."""
    out = [f"<h2>{html.escape(sheet.title)}</h2>"] if sheet.title else []
    out += ["<div class=scroll><table>", "<thead><tr>"]
    for h in sheet.headings:
        unit = f" ({html.escape(h.unit)})" if h.unit else ""
        out.append(f"<th{' class=l' if h.left else ''}>{html.escape(h.name)} {h.arrow}{unit}</th>")
    out.append("</tr></thead><tbody>")
    for section in sheet.sections:
        if section.title:
            out.append(f"<tr><th colspan={len(sheet.headings)} class=l>{html.escape(section.title)}</th></tr>")
        for line in section.lines:
            cells = (_html_cell(cell, heading) for cell, heading in zip(line, sheet.headings))
            out.append(f"<tr>{''.join(cells)}</tr>")
    out.append("</tbody></table></div>")
    out += [f"<p>{html.escape(text)}</p>" for text in (sheet.caption, *sheet.notes) if text]
    return "\n".join(out)


def _html_cell(cell: Cell, heading: Heading) -> str:
    text = html.escape(cell.text)
    text = {"best": f"<b>{text}</b>", "second": f"<u>{text}</u>"}.get(cell.mark, text)
    return f"<td{' class=l' if heading.left else ''}>{text}{'†' if cell.dagger else ''}</td>"


_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent)}.l{text-align:left}
"""


def html_page(sheets: list[Sheet], title: str) -> str:
    """A self-contained page."""
    body = "\n".join(html_table(sheet) for sheet in sheets)
    return (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def csv(sheet: Sheet) -> str:
    """The shown cells as CSV, a column `group` first and daggers as a column of their own."""
    columns = ["group", *(h.name for h in sheet.headings), "published"]
    lines = [
        dict(zip(columns, [section.title, *(cell.text for cell in line), "yes" if any(c.dagger for c in line) else ""]))
        for section in sheet.sections
        for line in section.lines
    ]
    return csv_text(({k: _number(v) for k, v in line.items()} for line in lines), columns)


def _number(text: str) -> str:
    return "" if text == "-" else text
