"""Write what `quality.py` measured into the tables [measured.*] of tiny's card.

    python training/card.py QUALITY.jsonl... --card vtbench/zoo/cards/tiny.toml

For every data set: tiny's values along its prefixes, JPEG's at quality 1, and from which quality on, at how many bits, JPEG is better than the whole of tiny.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMES = {"photos": "demo-photos", "demo:demo": "demo-words", "tokbench-mini:rendered": "tokbench-mini-rendered"}
DIGITS = {"bits": 0, "psnr": 2, "lpips": 3, "t_acc": 3}
Row = dict[str, Any]


def tables(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by the name of their table, those of one model in the order of its bits."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = NAMES.get(row["data"], row["data"])
        found.setdefault(f"{name}-{row['reader']}" if "reader" in row else name, []).append(row)
    return {name: sorted(held, key=lambda row: row["bits"]) for name, held in found.items()}


def number(key: str, value: float) -> str:
    """A value with the digits that the card gives it."""
    return str(round(value, DIGITS[key]) if DIGITS[key] else round(value))


def overtaking(ours: Row, theirs: list[Row], key: str) -> str | None:
    """The first measured JPEG from which on every one is better than `ours`."""
    sign = -1 if key == "lpips" else 1
    better = [sign * row[key] > sign * ours[key] for row in theirs]
    first = len(better) - [*better[::-1], False].index(False)
    if first == len(theirs):
        return None
    return f"{{ quality = {theirs[first]['model'].split('=')[1]}, bits = {number('bits', theirs[first]['bits'])} }}"


def table(name: str, rows: list[Row]) -> str:
    """One [measured.NAME]."""
    ours = [row for row in rows if row["model"].startswith("tiny")]
    theirs = [row for row in rows if row["model"].startswith("jpeg")]
    keys = ("t_acc",) if "t_acc" in rows[0] else ("psnr", "lpips")
    count = (
        f"{rows[0]['words']} words; per bin: small, medium, large"
        if "words" in rows[0]
        else f"{rows[0]['n']} images, 256 x 256"
    )
    lines = [f"[measured.{name}]  # {count}", f"tokens = [{', '.join(row['model'].split('=')[1] for row in ours)}]"]
    lines += [f"{key} = [{', '.join(number(key, row[key]) for row in ours)}]" for key in ("bits", *keys)]
    floor = ", ".join(f"{key} = {number(key, theirs[0][key])}" for key in ("bits", *keys))
    if "per_bin" in rows[0]:
        lines.append(f"t_acc_per_bin = {ours[-1]['per_bin']}")
        floor += f", t_acc_per_bin = {theirs[0]['per_bin']}"
    lines.append(f"jpeg_floor = {{ quality = {theirs[0]['model'].split('=')[1]}, {floor} }}")
    for key in keys:
        if better := overtaking(ours[-1], theirs, key):
            lines.append(f"jpeg_overtakes_{key} = {better}")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="+")
    parser.add_argument("--card", type=Path, required=True)
    args = parser.parse_args()
    rows = [json.loads(line) for file in args.measured for line in file.read_text().splitlines() if line]
    head = args.card.read_text().split("\n[measured.")[0].rstrip("\n")
    args.card.write_text("\n\n".join([head, *(table(name, held) for name, held in tables(rows).items())]) + "\n")


if __name__ == "__main__":
    main()
