"""Where a bundled folder lies: inside the package in a wheel, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# (folder in the checkout, folder in the wheel, a file that only the real folder has)
_FOLDERS = {
    "metrics": ("metrics", "metrics", "psnr.py"),
    "suites": ("suites", "suites", "protocols/vtbench.toml"),
    "published": ("results/published", "published", "tokbench.csv"),
}


def folder(name: str) -> Path:
    """The bundled folder `name` ("metrics", "suites" or "published"), told apart by a sentinel file."""
    checkout, wheel, sentinel = _FOLDERS[name]
    for candidate in (_PACKAGE / wheel, _PACKAGE.parent / checkout):
        if (candidate / sentinel).is_file():
            return candidate
    raise FileNotFoundError(f"vtbench's own folder '{name}' is missing: reinstall vtbench")
