"""docs/claims.md: what papers claim of their models, and the suite and metric that test it, or why nothing can."""

from __future__ import annotations

from typing import Any

from vtbench.report.delta import escaped
from vtbench.reproduction import SPELLED


def claims_page() -> str:
    """A table of every number that a card carries as its authors' claim."""
    from vtbench.registry import metrics
    from vtbench.suite import load_suite, suite_names
    from vtbench.zoo import catalogue as cards

    known = set(metrics())
    suites = [load_suite(name) for name in suite_names()]
    lines = [
        "# Claims",
        "",
        "Numbers that authors publish of their models, as the models' cards carry them, and how to test each. A claim whose protocol its paper",
        "does not state is held against every protocol that was measured (`vtbench reproduce`).",
        "",
        "| model | paper | claim | tested by |",
        "|---|---|---|---|",
    ]
    for found in map(cards.card, cards.names()):
        if found.origin != "vtbench":
            continue  # a plug-in of this machine
        for key, value in found.published.items():
            metric, _, dataset = key.partition("@")
            lines.append(
                f"| {escaped(found.title or found.name)} | {_paper(found.paper)} | {escaped(metric)} {value} on {escaped(dataset or 'unstated data')} "
                f"| {_test(found, SPELLED.get(metric.lower(), metric), known, suites)} |"
            )
    return "\n".join(lines) + "\n"


def _paper(paper: str) -> str:
    if paper.startswith("arXiv:"):
        return f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})"
    return escaped(paper)


def _test(card: Any, metric: str, known: set[str], suites: list[Any]) -> str:
    if metric not in known:
        return f"not testable here: no metric {escaped(metric)}"
    if not card.adapter:
        return f"not testable here: {escaped(card.missing or 'no adapter')}"
    size = card.resolution
    task, kind = ("generate", "generation-imagenet") if card.form == "generator" else ("reconstruct", "reconstruction")
    fitting = [s for s in suites if s.task == task and any(m.name == metric for m in s.metrics)]
    exact = [s for s in fitting if size in s.resolutions] or fitting
    if not exact:
        return f"the metric [{escaped(metric)}](reference/metrics/{metric}.md), in a suite of your own"
    suite = next((s for s in exact if s.name == f"{kind}-{size}"), exact[0])
    return f"[{suite.name}](reference/suites/{suite.name}.md), [{escaped(metric)}](reference/metrics/{metric}.md): `vtbench reproduce --model {card.name}`"
