"""`vtbench doctor`: what runs here, and what each of the others lacks."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from vtbench.cli import options as opt
from vtbench.console import echo, screen

# what a module is for, the extra that brings it, and its distribution where that has another name
OPTIONAL = {
    "rapidocr": ("words of the demo", "demo", ""),
    "onnxruntime": ("rapidocr and faces", "demo", ""),
    "lpips": ("LPIPS", "lpips", ""),
    "easyocr": ("tokbench-light", "ocr", ""),
    "doctr": ("tokbench", "ocr", "python-doctr"),
    "insightface": ("faces", "face", ""),
    "open_clip": ("CLIP", "clip", "open-clip-torch"),
    "transformers": ("CLIP, DINOv2, models", "clip", ""),
    "diffusers": ("models", "zoo", ""),
    "datasets": ("Hugging Face data", "hub", ""),
    "matplotlib": ("plots", "report", ""),
    "jinja2": ("reports", "report", "Jinja2"),
    "ray": ("clusters", "ray", ""),
}


def doctor(
    out: opt.Out = "results",
    full: bool = typer.Option(False, "--full", help="Every reason in full, a line each, instead of one screen."),
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout."),
) -> None:
    """What is installed, which suites and models run here, what the others lack. Exit code 1 if the demo could not run."""
    found = examine(Path(out))
    if json:
        import json as text

        echo(text.dumps(found, indent=1))
    else:
        _print(found, full)
    if found["suites"]["demo"]:
        raise typer.Exit(1)


def examine(out: Path) -> dict[str, Any]:
    """Everything that the command prints. suites: name -> what it lacks here, empty when it runs; models: name -> why not, "" when it does."""
    import torch

    from vtbench._version import __version__
    from vtbench.options import Options
    from vtbench.suite import suite_names
    from vtbench.weights import folders, hub_cache
    from vtbench.zoo.catalogue import cards
    from vtbench.zoo.upstream.place import standing

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    store, known = Path(str(Options(out=str(out)).store())), cards()
    return {
        "vtbench": __version__,
        "python": sys.version.split()[0],
        "core": {name: _version(name) for name in ("torch", "torchvision", "numpy", "scipy", "pillow", "pandas")},
        "devices": [*gpus, f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)"],
        "driver": _driver(),
        "cuda": torch.version.cuda or "",
        "packages": {
            name: _version(dist or name) if importlib.util.find_spec(name) is not None else ""
            for name, (_, _, dist) in OPTIONAL.items()
        },
        "caches": {
            **{f"weights {f}": _size(f) for f in folders()},
            f"hub {hub_cache()}": _size(hub_cache()),
            f"results {out}": _size(out),
            f"measurements {store}": _size(store),
        },
        "free": {str(out): _free(out), **({str(store): _free(store)} if out not in store.parents else {})},
        "suites": {name: _lacks(name) for name in suite_names()},
        "environments": {card.name: str(there) for card in known if (there := standing(card)) is not None},
        "models": {card.name: card.why_not() for card in known},
    }


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "?"


def _driver() -> str:
    """The NVIDIA driver's version; "" where there is none."""
    path = Path("/proc/driver/nvidia/version")
    try:
        if path.is_file():
            return path.read_text().split("Kernel Module")[1].split()[0]
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
        return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else ""
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return ""


def _lacks(name: str) -> list[str]:
    """What a suite lacks here, packages and weights, with the way out."""
    from vtbench.errors import VtbenchError
    from vtbench.plan import make_plan
    from vtbench.suite import load_suite
    from vtbench.zoo import load

    suite = load_suite(name)
    try:
        plan = make_plan(suite, load("resize"), resolutions=[suite.resolutions[0] or None])
    except VtbenchError as error:
        return [str(error)]
    return list(dict.fromkeys(cell.skip for cell in plan.cells if cell.skip))


def _size(folder: Path) -> int | None:
    """Bytes below a folder, links not followed; None when it is absent."""
    if not folder.is_dir():
        return None
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(above, name))
            except OSError:  # gone meanwhile
                continue
            total += status.st_size
    return total


def _free(folder: Path) -> int:
    """Free bytes where a folder lies, or would."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _human(size: int | None) -> str:
    return "absent" if size is None else f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.1f} MB"


def _kinds(models: Mapping[str, str]) -> dict[str, list[str]]:
    """Why models do not run, as kinds, with their names; the commonest first."""
    kinds: dict[str, list[str]] = {}
    for name, why in models.items():
        if why:
            kind = next((k for k, words in _REASONS.items() if any(w in why for w in words)), "for other reasons not")
            kinds.setdefault(kind, []).append(name)
    return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))


_REASONS = {
    "without a package": ("needs the package",),
    "without their authors' code": ("upstream", "authors' code", "checkout", "environment"),
    "without weights": ("no weights", "give --weights", "--weights"),
    "without an adapter": ("no adapter", "not part of this version"),
}


def _print(found: Mapping[str, Any], full: bool) -> None:
    from rich.text import Text

    out = screen(highlight=False, markup=False)

    def line(head: str, text: str, style: str = "") -> None:
        out.print(
            Text.assemble((f"{head:<9}", "bold"), (text, style)),
            overflow="fold" if full else "ellipsis",
            no_wrap=not full,
        )

    core = found["core"]
    line("vtbench", f"{found['vtbench']}, Python {found['python']}, " + ", ".join(f"{n} {v}" for n, v in core.items()))
    cuda = ", ".join(
        filter(
            None, (found["driver"] and f"driver {found['driver']}", found["cuda"] and f"torch for CUDA {found['cuda']}")
        )
    )
    line("devices", ", ".join(found["devices"]) + (f"; {cuda}" if cuda else ""))
    there = [f"{n} {v}" if full else n for n, v in found["packages"].items() if v]
    _paragraph(out, "packages", there or ["none of the optional ones"])
    absent: dict[str, list[str]] = {}
    for name, version in found["packages"].items():
        if not version:
            absent.setdefault(OPTIONAL[name][1], []).append(f"{name} ({OPTIONAL[name][0]})")
    for extra, names in absent.items():
        line("", f"pip install 'vtbench[{extra}]' brings {', '.join(names)}", "yellow")
    runs = [name for name, lacks in found["suites"].items() if not lacks]
    _paragraph(out, "suites", _families(runs) or ["none runs here"], "green")
    if full:
        for name, lacks in found["suites"].items():
            for why in lacks:
                line("", f"{name} lacks: {why}", "yellow")
    for lacks, names in () if full else _alike(found["suites"]).items():
        line("", f"{', '.join(_families(names))} without {lacks}", "yellow")
    models = found["models"]
    _paragraph(out, "models", [name for name, why in models.items() if not why] or ["none runs here"], "green")
    if full:
        for name, why in models.items():
            if why:
                line("", f"{name}: {why}", "yellow")
    for kind, names in () if full else _kinds(models).items():
        line("", f"{len(names)} {kind}: {', '.join(names)}", "yellow")
    sizes = found["caches"]
    places = [f"{place} {_human(size)}" for place, size in sizes.items() if size is not None]
    empty = [place for place, size in sizes.items() if size is None]
    _paragraph(out, "caches", [*places, *([f"absent: {', '.join(empty)}"] if empty else [])])
    if found["environments"]:
        _paragraph(out, "beside", [f"{name} in {where}" for name, where in found["environments"].items()])
    line("free", ", ".join(f"{_human(size)} at {folder}" for folder, size in found["free"].items()))
    if found["suites"]["demo"]:
        line("demo", "cannot run: see what it lacks above", "red")
    else:
        line("demo", "runs: vtbench reconstruct --model tiny --suite demo", "green")
    if not full:
        line("more", "vtbench doctor --full: every reason, and the way out", "dim")


def _alike(suites: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What suites lack, in few words, with those that lack the same."""
    kinds: dict[str, list[str]] = {}
    for name, lacks in suites.items():
        if lacks:
            short = [re.sub(r"^no (?=weights)| \(.*|\. .*", "", why) for why in lacks]
            kinds.setdefault(", ".join(dict.fromkeys(short)), []).append(name)
    return kinds


def _families(names: Iterable[str]) -> list[str]:
    """Names that share their first word in one: ``reconstruction-{256,512}``."""
    families: dict[str, list[str]] = {}
    for name in names:
        head, dash, tail = name.partition("-")
        families.setdefault(head + dash, []).append(tail)
    return [head + (tails[0] if len(tails) == 1 else f"{{{','.join(tails)}}}") for head, tails in families.items()]


def _paragraph(out: Any, head: str, words: Iterable[str], style: str = "") -> None:
    """A list of words under its heading, folded between words."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=0)
    grid.add_column(width=9)
    grid.add_column()
    grid.add_row(Text(head, "bold"), Text(", ".join(words), style))
    out.print(Padding(grid, 0, expand=False))
