"""`vtbench doctor`: what runs here, and what each of the others lacks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import typer

# what a module is for, and the extra that brings it
OPTIONAL = {
    "rapidocr": ("words of the demo", "demo"),
    "onnxruntime": ("rapidocr and faces", "demo"),
    "lpips": ("LPIPS", "lpips"),
    "easyocr": ("tokbench-light", "ocr"),
    "doctr": ("tokbench", "ocr"),
    "insightface": ("faces", "face"),
    "open_clip": ("CLIP", "clip"),
    "transformers": ("CLIP, DINOv2, models", "clip"),
    "diffusers": ("models", "zoo"),
    "datasets": ("Hugging Face data", "hub"),
    "matplotlib": ("plots", "report"),
    "jinja2": ("reports", "report"),
    "ray": ("clusters", "ray"),
}


def doctor(
    out: str = typer.Option("results", envvar="VTBENCH_OUT", help="The results folder."),
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout."),
) -> None:
    """What is installed, which suites and models run here, what the others lack. Exit code 1 if the demo could not run."""
    found = examine(Path(out))
    if json:
        import json as text

        typer.echo(text.dumps(found, indent=1))
    else:
        _print(found)
    if found["suites"].get("demo", ["missing"]):
        raise typer.Exit(1)


def examine(out: Path) -> dict[str, Any]:
    """Everything that the command prints. suites: name -> what it lacks here, empty when it runs."""
    import torch

    from vtbench._version import __version__
    from vtbench.suite import suite_names
    from vtbench.weights import folders
    from vtbench.zoo.card import cards
    from vtbench.zoo.upstream.place import standing

    known = cards()
    lacking = {card.name: card.why_not() for card in known}
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    place = out if out.exists() else Path(".")
    return {
        "vtbench": __version__,
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "devices": [*gpus, f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)"],
        "packages": {name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
        "weights": {str(f): _size(f) for f in folders()},
        "results": {"folder": str(out), "bytes": _size(out), "free": shutil.disk_usage(place).free},
        "suites": {name: _lacks(name) for name in suite_names()},
        "environments": {c.name: str(there) for c in known if (there := standing(c)) is not None},
        "models": {
            "run": [n for n, why in lacking.items() if not why],
            "others": sum(bool(w) for w in lacking.values()),
        },
    }


def _lacks(name: str) -> list[str]:
    """What a suite's metrics lack here: missing packages and weights, with the way out."""
    from vtbench.plan import make_plan
    from vtbench.suite import load_suite
    from vtbench.zoo import load

    suite = load_suite(name)
    if suite.task != "reconstruct":
        return []
    plan = make_plan(suite, load("resize"), resolutions=[suite.resolutions[0] or None])
    return list(dict.fromkeys(cell.skip for cell in plan.cells if cell.skip))


def _size(folder: Path) -> int | None:
    """Bytes below a folder; None when it is absent."""
    if not folder.is_dir():
        return None
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _human(size: int | None) -> str:
    return "absent" if size is None else f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.1f} MB"


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    out = Console(highlight=False, markup=False, soft_wrap=True)
    out.print(
        f"vtbench {found['vtbench']}, Python {found['python']}, torch {found['torch']}: {', '.join(found['devices'])}"
    )
    absent = {n: OPTIONAL[n] for n, there in found["packages"].items() if not there}
    out.print(
        f"packages: {', '.join(n for n, there in found['packages'].items() if there) or 'none of the optional ones'}"
    )
    for name, (use, extra) in absent.items():
        out.print(Text(f"  without {name} ({use}): pip install 'vtbench[{extra}]'", "dim"))
    for folder, size in found["weights"].items():
        out.print(f"weights: {folder} ({_human(size)})")
    results = found["results"]
    out.print(f"results: {results['folder']} ({_human(results['bytes'])}), {_human(results['free'])} free")
    for name, lacks in found["suites"].items():
        out.print(
            Text(f"suite {name}: {'runs' if not lacks else 'lacks something'}", "green" if not lacks else "yellow")
        )
        for why in lacks:
            out.print(Text(f"  {why}", "dim"))
    for name, where in found["environments"].items():
        out.print(f"environment of {name}: {where}")
    out.print(
        f"models that run: {', '.join(found['models']['run'])}; {found['models']['others']} others (vtbench models list)"
    )
