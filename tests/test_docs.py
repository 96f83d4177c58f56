"""The generated pages say what is declared, and what is written by hand names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vtbench import cli, table
from vtbench.report import docs

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def pages():
    return docs.pages()


def test_the_generated_pages_are_current():
    assert docs.stale(DOCS) == [], "run: python -m vtbench.report.docs docs"


def test_every_link_between_generated_pages_leads_somewhere(pages):
    for path, text in pages.items():
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            if not link.startswith("https://"):
                target = (DOCS / path).parent / link
                assert target.resolve().relative_to(DOCS.resolve()).as_posix() in pages, (path, link)


def test_every_command_and_option_of_ours_is_in_the_reference(pages):
    text = pages["reference/commands.md"]
    for name in cli.COMMANDS:
        assert f"## vtbench {name}" in text
    assert "`--baseline, -b` | The baseline: TOML or JSON. | required" in text


def test_stale_pages_are_found_and_written(tmp_path, pages):
    assert len(docs.stale(tmp_path)) == len(pages)
    docs.write(tmp_path)
    assert docs.stale(tmp_path) == []
    (tmp_path / "claims.md").write_text("old")
    (tmp_path / "reference/metrics/gone.md").write_text("gone")
    assert docs.stale(tmp_path) == ["claims.md", "reference/metrics/gone.md"]
    docs.write(tmp_path)
    assert not (tmp_path / "reference/metrics/gone.md").exists()


def test_the_results_page_names_commands_and_columns_that_exist():
    text = (DOCS / "results.md").read_text()
    assert ", ".join(table.COLUMNS) in " ".join(text.split())
    for command in re.findall(r"vtbench ([a-z]+)", text):
        assert command in cli.COMMANDS
