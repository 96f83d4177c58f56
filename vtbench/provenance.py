"""Where a number was made: packages, vtbench's own commit, device, threads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vtbench._version import __version__
from vtbench.memory import freed_is_kept
from vtbench.record import Environment, SourceInfo

PACKAGES = (
    "torch", "torchvision", "torchmetrics", "numpy", "scipy", "pillow", "pandas", "pyarrow", "safetensors", "lpips", "clean-fid",
    "open-clip-torch", "transformers", "diffusers", "timm", "easyocr", "python-doctr", "rapidocr", "onnxruntime", "insightface",
    "opencv-python", "opencv-python-headless",
)  # fmt: skip


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def own_source() -> SourceInfo:
    """vtbench's version, and its own tree's commit and dirty flag (never those of the user's working folder)."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or _git("rev-parse", "--show-toplevel") != str(root):
        return SourceInfo(version=__version__)
    dirty = bool(_git("status", "--porcelain", "--", "vtbench", "metrics", "suites"))
    return SourceInfo(version=__version__, commit=_git("rev-parse", "HEAD"), dirty=dirty)


@cache
def packages() -> dict[str, str]:
    """Versions of the installed packages that can move a number."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment(device: str, dtype: str, batch_size: int, seed: int, **more: Any) -> Environment:
    """The environment of a run, as the record keeps it."""
    import torch

    name, driver, tf32 = platform.processor() or platform.machine(), "", None
    if device.startswith("cuda") and torch.cuda.is_available():
        name = torch.cuda.get_device_name(device)
        driver = str(torch.version.cuda)
        tf32 = bool(torch.backends.cuda.matmul.allow_tf32)
    return Environment(
        packages=packages(),
        vtbench=own_source(),
        python=sys.version.split()[0],
        platform=platform.platform(),
        device=f"{device} ({name})" if name else device,
        driver=driver,
        dtype=dtype,
        tf32=tf32,
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        seed=seed,
        more={"cpus": os.cpu_count(), **({"freed_memory_kept": True} if freed_is_kept() else {}), **more},
    )
