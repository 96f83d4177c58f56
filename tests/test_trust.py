"""Files that mean harm: archives, links, pictures and names of strangers. Pickles: test_weights, test_score, test_token_files; HTML: test_report_page; CSV: test_table."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
import tarfile
import zlib
from collections import namedtuple
from pathlib import Path

import pytest
from PIL import Image
from records_for_tests import make

from vtbench import cli
from vtbench.console import echo, printable, screen
from vtbench.data import open_dataset, unpack
from vtbench.errors import BadData, BadRecord, BadSample, VtbenchError
from vtbench.progress import Plain, Rich
from vtbench.records import read_all

EVIL = "a\x1b]0;owned\x07\x1b[2J\u202egnp.\x9b31m"


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it is so large, with little in it."""
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


# ------------------------------------------------------------------------------------------------ bombs


@pytest.mark.parametrize(
    "content",
    [
        png(60_000, 60_000, (b"IDAT", zlib.compress(bytes(1000)))),
        png(8, 8, (b"zTXt", b"c\0\0" + zlib.compress(bytes(100 << 20))), (b"IDAT", zlib.compress(bytes(8 * 25)))),
        png(8, 8, (b"iCCP", b"c\0\0" + zlib.compress(bytes(100 << 20))), (b"IDAT", zlib.compress(bytes(8 * 25)))),
    ],
    ids=["pixels", "text", "profile"],
)
def test_pictures_that_unpack_to_much_more(tmp_path: Path, content: bytes) -> None:
    assert len(content) < 200_000
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "bomb.png").write_bytes(content)
    Image.new("RGB", (8, 8)).save(tmp_path / "x" / "fine.png")
    found = open_dataset(str(tmp_path / "x"))
    for sample in found.samples:
        try:
            sample.image()
        except BadSample as error:
            assert "bomb" in str(error)  # noqa: PT017 - either is right: refused, or read without its text


@pytest.mark.parametrize("name", ["d.tar.gz", "d.npz"])
def test_archives_that_unpack_to_much_more(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    if name.endswith("gz"):
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(bytes(64 << 20))
    else:
        np.savez_compressed(tmp_path / name, np.zeros((400, 256, 256, 3), np.uint8))
    assert (tmp_path / name).stat().st_size < 200_000
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(unpack, "LOOK", 4 << 20)
    monkeypatch.setattr(
        unpack.shutil, "disk_usage", lambda folder: usage(0, 0, unpack.RESERVE + (5 << 20) - written(folder))
    )

    def written(folder: Path) -> int:
        return sum(p.stat().st_size for p in Path(folder).iterdir())

    with pytest.raises(VtbenchError, match="the disk would be full"):
        open_dataset(str(tmp_path / name), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "unpacked").iterdir())


# ------------------------------------------------------------------------------------------------ ways out


def test_links_out_of_the_folder_are_followed_and_counted(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "x").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "far" / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "x" / "b.png")
    (tmp_path / "secret.txt").write_text("password")
    os.symlink(tmp_path / "far", tmp_path / "x" / "c")
    os.symlink(tmp_path / "secret.txt", tmp_path / "x" / "d.png")
    os.symlink("b.png", tmp_path / "x" / "e.png")
    found = open_dataset(str(tmp_path / "x"))
    assert [s.id for s in found.samples] == ["b", "c/a", "e"]
    assert found.notes["links that lead out of the folder"] == 2
    ((id_, why),) = found.problems
    assert id_ == "d" and "password" not in why


def test_members_of_a_tar_stay_inside(tmp_path: Path) -> None:
    held = io.BytesIO()
    Image.new("RGB", (8, 8)).save(held, "PNG")
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        for name in ("a.png", "../b.png", "/etc/c.png", "x/../../d.png", "..\\e.png", "C:/f.png"):
            info = tarfile.TarInfo(name)
            info.size = len(held.getvalue())
            archive.addfile(info, io.BytesIO(held.getvalue()))
        for name, kind, target in (
            ("g.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("h.png", tarfile.LNKTYPE, "/etc/passwd"),
            ("i.png", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    found = open_dataset(str(tmp_path / "d.tar"), cache=tmp_path / "cache")
    assert [s.id for s in found.samples] == ["a"]
    assert len(found.problems) == 7 and found.notes == {"hidden files and folders": 1}
    assert not list(tmp_path.rglob("*.png"))


def test_file_names_in_annotations_and_records_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "images" / "text_data" / "ic13").mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    entry = {"file_name": "../../../secret.png", "annotations": []}
    (tmp_path / "annotations" / "text_ic13.json").write_text(json.dumps([entry]))
    with pytest.raises(BadData, match="leads out"):
        open_dataset(str(tmp_path), reader="tokbench")
    record = json.loads((make(tmp_path, n=5) and next((tmp_path / "records").glob("*.json"))).read_text())
    record["run_id"] = "../../elsewhere"
    (tmp_path / "records" / "evil.json").write_text(json.dumps(record))
    _, (problem,) = read_all(tmp_path)
    assert isinstance(problem, BadRecord) and "run_id" in str(problem)


# ------------------------------------------------------------------------------------------------ terminals


def test_controls_are_written_out() -> None:
    assert printable(EVIL) == "a\\u001b]0;owned\\u0007\\u001b[2J\\u202egnp.\\u009b31m"
    assert printable("Straße\t汉字\n") == "Straße\t汉字\n"
    assert json.loads(printable(json.dumps({"a": EVIL}, ensure_ascii=False))) == {"a": EVIL}


def clean(text: str) -> bool:
    """Whether a text holds nothing that a terminal would obey."""
    return printable(text) == text


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_printed_never_steers_the_terminal(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    held = io.StringIO()
    out = screen(file=held, force_terminal=terminal, color_system=None, width=60)
    table = Table(title=Text(EVIL))
    table.add_column(Text(EVIL))
    table.add_row(Text(EVIL))
    out.print(table)
    out.print(EVIL, markup=False)
    assert clean(held.getvalue()) and "owned" in held.getvalue()
    talk = Plain()
    talk.say(EVIL)
    talk.warn(EVIL)
    with talk.task(EVIL, 1) as task:
        task.advance()
    rich = Rich()
    rich.say(EVIL)
    rich.warn(EVIL)
    echo(EVIL)
    said = capsys.readouterr()
    assert clean(said.out) and clean(said.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["results", "list"], ["results", "show", EVIL], ["table"], ["table", "--format", "csv"], ["table", "--format", "md"], ["leaderboard"],
        ["results", "show", EVIL, "--json"], ["compare", EVIL, "plain"], ["results", "list", "--json"],
    ],
    ids=lambda a: " ".join(a).replace(EVIL, "NAME"),
)  # fmt: skip
def test_hostile_names_in_every_command(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    record = make(Path("results"), EVIL, n=6, status="partial", card={"title": EVIL, "form": "2d"})
    record.failures[0].reason = EVIL
    record.rows[0].why = EVIL
    make(Path("results"), "plain", n=6, seed=3)
    Path("results/records/broken\x1b[31m.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["vtbench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code in (0, None), capsys.readouterr().err
    said = capsys.readouterr()
    assert clean(said.out) and clean(said.err)
    assert said.out
