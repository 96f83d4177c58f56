"""A check's findings for people and machines: one screen, Markdown, JUnit XML, GitHub annotations."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from vtbench.check import FAILING, Finding, Report
from vtbench.report.numbers import number, signed

_ORDER = ("regressed", "changed", "missing", "improved", "new", "within", "same", "ignored")


def headline(report: Report) -> str:
    """``check of demo: 2 regressed, 1 missing, 30 same``."""
    counts = report.counts()
    parts = [f"{counts[state]} {state}" for state in _ORDER if state in counts]
    return f"check of {report.suite}: {', '.join(parts) or 'nothing to compare'}"


def sentence(finding: Finding) -> str:
    """What one finding says."""
    if finding.before is None or finding.after is None:
        change = f"{number(finding.before)} before, {number(finding.after)} now"
    else:
        change = f"{_six(finding.before)} to {_six(finding.after)} ({signed(finding.after - finding.before)})"
    return f"{finding.state}: {finding.name()}: {change}, allowed {finding.allowed or 'anything'}" + (
        f"; {finding.why}" if finding.why else ""
    )


def _six(value: float) -> str:
    return f"{value:.6g}"


def shown(report: Report, limit: int = 20) -> list[Finding]:
    """The findings worth a line, worst first."""
    worth = [f for f in report.findings if f.state not in ("same", "within", "ignored")]
    return sorted(worth, key=lambda f: _ORDER.index(f.state))[:limit]


def screen(report: Report) -> str:
    """The report in one screen."""
    lines = [headline(report), *(f"  {sentence(f)}" for f in shown(report))]
    left = sum(f.state not in ("same", "within", "ignored") for f in report.findings) - (len(lines) - 1)
    return "\n".join([*lines, f"  and {left} more"] if left > 0 else lines)


def _cell(text: str) -> str:
    return escape(text).replace("|", "\\|").replace("\n", " ")


def markdown(report: Report) -> str:
    """For GitHub's step summary."""
    lines = [f"### {'❌' if report.failed else '✅'} {_cell(headline(report))}", ""]
    rows = shown(report, 100)
    if rows:
        lines += ["| state | row | baseline | now | allowed |", "|---|---|---:|---:|---|"]
        for f in rows:
            before, after = (number(v) if v is None else _six(v) for v in (f.before, f.after))
            lines.append(f"| {f.state} | {_cell(f.name())} | {before} | {after} | {_cell(f.allowed)} |")
    return "\n".join(lines) + "\n"


def workflow_commands(report: Report, file: str) -> list[str]:
    """GitHub workflow commands: an error per failing row, a notice per improvement."""
    out = []
    for finding in shown(report, 50):
        level = "error" if finding.state in FAILING else "notice"
        where = _property(file)
        out.append(f"::{level} file={where},title={_property(finding.name())}::{_message(sentence(finding))}")
    return out


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def junit(report: Report) -> str:
    """JUnit XML: one case a row."""
    cases = [_case(f) for f in report.findings]
    skipped = sum(f.state in ("ignored", "new") for f in report.findings)
    head = (
        f'<testsuite name={quoteattr("vtbench check " + _printable(report.suite))} tests="{len(report.findings)}" '
        f'failures="{len(report.failed)}" skipped="{skipped}">'
    )
    return "\n".join(
        ['<?xml version="1.0" encoding="utf-8"?>', "<testsuites>", head, *cases, "</testsuite></testsuites>", ""]
    )


def _case(finding: Finding) -> str:
    name = quoteattr(_printable(finding.name()))
    kind = quoteattr(_printable(f"vtbench.{finding.key[5]}"))
    said = _printable(sentence(finding))
    if finding.state in FAILING:
        inner = f"<failure message={quoteattr(said)}>{escape(said)}</failure>"
    elif finding.state in ("ignored", "new"):
        inner = f"<skipped message={quoteattr(said)}/>"
    else:
        inner = f"<system-out>{escape(said)}</system-out>"
    return f"<testcase classname={kind} name={name}>{inner}</testcase>"


def _printable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c if c in "\t\n\r" or ord(c) >= 32 else "?" for c in text)
