"""The generated pages say what is declared, and what is written by hand names what exists."""

from __future__ import annotations

import ast
import importlib
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


def test_the_map_of_the_house_has_every_module_and_no_other():
    root = DOCS.parent
    text = (DOCS / "house.md").read_text()
    steps = text.partition("## What goes where")[0]
    named = set(re.findall(r"`([a-z_]+)`", steps))
    assert named == {p.stem for p in (root / "vtbench").glob("*.py")} - {"__init__", "__main__", "_version"}
    folders = {p.parent.name for p in (root / "vtbench").glob("*/__init__.py")}
    assert set(re.findall(r"`(?:vtbench/)?([a-z]+)/`", steps)) == folders
    for path in re.findall(r"`((?:vtbench|suites|metrics|results|tests)/[\w/.]+)`", text):
        assert "NAME" in path or "FAMILY" in path or (root / path).exists(), path
    for name in re.findall(r"`((?:data|cli|registry)[\w.]*\.[A-Z_]+)`", text):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(f"vtbench.{module}"), attribute), name


def test_no_module_imports_from_a_later_row_of_the_map():
    rows = re.findall(
        r"^\| [^|]+ \| ([^|]+) \|$", (DOCS / "house.md").read_text().partition("`evaluation` leads")[0], re.M
    )
    row = {name: i for i, names in enumerate(rows) for name in re.findall(r"`(?:vtbench/)?([a-z_]+)/?`", names)}
    root = DOCS.parent
    for path in [*root.glob("vtbench/**/*.py"), *root.glob("metrics/*.py")]:
        own = path.relative_to(root).with_suffix("").parts
        here = row.get("metrics" if own[0] == "metrics" else own[1])
        if here is None or "drivers" in own:
            continue
        for node in ast.parse(path.read_text()).body:  # neither lazy imports nor those for types alone
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("vtbench"):
                continue
            inner = node.module.split(".")[1:]
            for name in inner[:1] or [a.name for a in node.names]:
                assert row.get(name, -1) <= here, f"{path} imports {name}"
