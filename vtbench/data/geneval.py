"""GenEval's prompts as conditions: the published list, another list of its form, or the prompts that lie beside images in its layout.

The layout: ``NNNNN/metadata.jsonl`` (one JSON object) and ``NNNNN/samples/*.png``, named by numbers. A condition's id is ``NNNNN/MMMMM``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vtbench.data.sample import Dataset, Sample
from vtbench.data.sources import FileSource
from vtbench.errors import BadData
from vtbench.geneval.prompts import IMAGES, VERSION, Prompt, lines, parse, version

METADATA = "metadata.jsonl"
_NUMBERED = re.compile(r"\d+\.png$", re.IGNORECASE)


def conditions(where: str | None = None) -> Dataset:
    """Four images of every prompt. where: a folder in GenEval's layout, or a list like ``evaluation_metadata.jsonl`` (None: the published list).

    The dataset is `geneval` when its prompts are the published ones; its revision is the digest of their list. Prompts without a folder, and images that
    are missing or too many, are problems and notes. Raises `BadData` for what cannot be scored."""
    if where is None:
        return _dataset({f"{i:05d}": parse(line, f"prompt {i}") for i, line in enumerate(lines())}, "geneval")
    path = Path(where).expanduser()
    if path.is_dir():
        return _of_folder(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise BadData(
            f"cannot read {where}: {error.strerror or error}", "Give GenEval's layout, or a list of its form"
        ) from error
    except UnicodeDecodeError as error:
        raise BadData(f"{where} is not UTF-8 text", "A list has one JSON object a line") from error
    found = [line for line in text.splitlines() if line.strip()]
    if not found:
        raise BadData(f"{where} holds no prompts", "A list has one JSON object a line")
    return _dataset({f"{i:05d}": parse(line, f"{where}, line {i + 1}") for i, line in enumerate(found)}, path.stem)


def _of_folder(root: Path) -> Dataset:
    folders = sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit())
    if not any((p / METADATA).is_file() or (p / "samples").is_dir() for p in folders):
        raise BadData(
            f"{root} is not laid out like GenEval", f"It needs 00000/{METADATA} with 00000/samples/*.png, and so on"
        )
    found: dict[str, Prompt] = {}
    numbers: dict[str, list[int]] = {}
    problems: list[tuple[str, str]] = []
    surplus: list[str] = []
    for folder in folders:
        name = f"{int(folder.name):05d}"
        if name in found:
            raise BadData(f"two folders in {root} are prompt {int(name)}", "Keep one of them")
        file = folder / METADATA
        if not file.is_file():
            problems.append((name, f"{folder.name}/{METADATA} is missing, so nobody knows what its images should show"))
            continue
        try:
            text = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadData(f"cannot read {file}: {error}") from error
        found[name] = parse(text, str(file))
        there = sorted({int(p.stem) for p in (folder / "samples").glob("*") if _NUMBERED.fullmatch(p.name)})
        surplus += [f"{name}/{n:05d}" for n in there[IMAGES:]]
        spare = [n for n in range(IMAGES) if n not in there]
        numbers[name] = there[:IMAGES] + spare[: max(0, IMAGES - len(there))]
    if not found:
        raise BadData(
            f"no folder in {root} has a {METADATA}", "GenEval's layout has one beside every prompt's samples/"
        )
    dataset = _dataset(found, root.resolve().name, numbers)
    if dataset.revision != VERSION and _published(found):
        lacking = [name for name in (f"{i:05d}" for i in range(len(lines()))) if name not in found]
        problems += [(name, "the prompt has no folder: its images are missing") for name in lacking]
    notes = dict(dataset.notes) if not _published(found) else {}
    notes |= (
        {"images beyond four of a prompt, left out (" + ", ".join(surplus[:3]) + ")": len(surplus)} if surplus else {}
    )
    return Dataset(dataset.name, dataset.revision, dataset.samples, tuple(sorted(problems)), notes)


def _published(found: Mapping[str, Prompt]) -> bool:
    """Whether prompts are some of the published ones, each in its own folder."""
    known = lines()
    return all(int(name) < len(known) and known[int(name)] == prompt.metadata for name, prompt in found.items())


def _dataset(found: Mapping[str, Prompt], name: str, numbers: Mapping[str, Sequence[int]] | None = None) -> Dataset:
    digest = version([prompt.metadata for _, prompt in sorted(found.items())])
    samples = [
        Sample(
            f"{key}/{number:05d}",
            digest,
            FileSource(""),
            caption=prompt.text,
            meta={"geneval": prompt.metadata, "prompt_id": key, "tag": prompt.tag},
        )
        for key, prompt in sorted(found.items())
        for number in (numbers or {}).get(key, range(IMAGES))
    ]
    if digest == VERSION:
        return Dataset("geneval", digest, tuple(samples))
    other = f"prompts of another list than GenEval's ({digest[:19]}..., not {VERSION[:19]}...), beside which no published row stands"
    return Dataset(f"prompts:{name}", digest, tuple(samples), notes={other: len(found)})
