"""Mutates valid files and hands them to the readers. Each must read what it is given or say why not (a `VtbenchError`): no other
exception, no hang, no blown-up memory, no code run.

    python tests/fuzz.py --seconds 600                       # every reader in turn
    python tests/fuzz.py --reader suite --seconds 60 --seed 3
    python tests/fuzz.py --reader suite --seed 3 --case 1234  # that one again, with its traceback

What it finds lies under --keep with its traceback; once fixed it becomes a small named case in test_fuzz.py.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import io
import json
import pickle
import random
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from vtbench.errors import VtbenchError

LIMIT_SECONDS = 30.0
LIMIT_BYTES = 3 << 30
PWNED = "pwned"


class Hang(BaseException):
    """A reader took longer than `LIMIT_SECONDS`."""


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(PWNED),))


# ------------------------------------------------------------------------------------------------ mutations

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 255, 2**31, -(2**63), 2**63, 2**70, 10**30, 0.5, -0.5, 1e308, 1e-308, float("nan"), float("inf"),
    "", "a", "0", "nan", "1e999", "../../x", "/etc/passwd", "a\0b", "\x1b[31m", "<b>&", "=1+1", "\ud800", "é" * 300, "x" * 70_000,
    [], [[]], [0], [1, 2], ["a"], [None], list(range(3000)), {}, {"a": 1}, {"": {}}, [{}], [[1, 2], [3]],
]  # fmt: skip


DEEP = "lists in lists"


def odd(rng: random.Random) -> Any:
    """A value that nobody meant."""
    return DEEP if rng.random() < 0.03 else copy.deepcopy(rng.choice(ODD))


def _deep(rng: random.Random, text: str) -> bytes:
    """The text with what stands for a deep nesting made one: no parser's own data structure is asked to hold it here."""
    depth = rng.choice((50, 1200, 100_000))
    return text.replace(json.dumps(DEEP), "[" * depth + "]" * depth).encode("utf-8", "surrogatepass")


def of_tree(rng: random.Random, tree: Any) -> Any:
    """Plain data with one to three of its nodes replaced, dropped, doubled or renamed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places or rng.random() < 0.01:
            return odd(rng)
        holder, key = rng.choice(places)
        what = rng.random()
        if what < 0.65:
            holder[key] = odd(rng)
        elif what < 0.8:
            del holder[key]
        elif what < 0.9:
            other, place = rng.choice(places)
            with contextlib.suppress(LookupError, TypeError):
                holder[key] = json.loads(json.dumps(other[place]))
        elif isinstance(holder, dict):
            holder[rng.choice(["", "x", "name", "é", "__class__", str(key) + "_"])] = holder.pop(key)
        else:
            holder.insert(key, json.loads(json.dumps(holder[key])))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes with a few of them flipped, cut, doubled, zeroed or put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out)) if out else 0
        # what says how the rest is to be read stands in front, or at the end
        at = (
            at
            if rng.random() < 0.5 or not out
            else rng.choice([at % min(len(out), 128), len(out) - 1 - at % min(len(out), 64)])
        )
        length = min(rng.choice((1, 2, 4, 8, 64)), len(out) - at)
        what = rng.random()
        if what < 0.35 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif what < 0.55:
            out[at : at + length] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * length
        elif what < 0.7:
            out[at : at + length] = bytes(rng.randrange(256) for _ in range(length))
        elif what < 0.8:
            del out[at : at + length]
        elif what < 0.9:
            out[at:at] = out[at : at + length]
        else:
            del out[at:]
    return bytes(out)


def of_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON text: a node changed, or its bytes."""
    if rng.random() < 0.15:
        return of_bytes(rng, data)
    return _deep(rng, json.dumps(of_tree(rng, json.loads(data)), ensure_ascii=rng.random() < 0.5))


def of_lines(rng: random.Random, data: bytes) -> bytes:
    """A table of text: a cell replaced, a line dropped or doubled, or its bytes."""
    if rng.random() < 0.2:
        return of_bytes(rng, data)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    what = rng.random()
    if what < 0.7:
        cells = lines[at].split(b",")
        cells[rng.randrange(len(cells))] = f"{odd(rng)}".encode("utf-8", "surrogatepass")
        lines[at] = b",".join(cells)
    elif what < 0.85:
        del lines[at]
    else:
        lines.insert(at, lines[rng.randrange(len(lines))])
    return b"\n".join(lines)


def of_toml(rng: random.Random, data: bytes) -> bytes:
    """A TOML text: a value changed, or its bytes."""
    from vtbench.parse import tomllib

    if rng.random() < 0.15:
        return of_bytes(rng, data)
    tree = of_tree(rng, tomllib.loads(data.decode()))
    if not isinstance(tree, dict):
        return _deep(rng, _toml(tree))
    return _deep(rng, "".join(f"{json.dumps(k)} = {_toml(v)}\n" for k, v in tree.items() if v is not None))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value if v is not None) + "]"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")


def of_npz(rng: random.Random, data: bytes) -> bytes:
    """An archive of arrays: another array in the place of one, its header changed, a member dropped, or the archive's bytes."""
    if rng.random() < 0.3:
        return of_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    what = rng.random()
    if what < 0.55:
        held = io.BytesIO()
        np.save(held, _array(rng))
        members[name] = held.getvalue()
    elif what < 0.8:
        head = members[name][:128]
        for old, new in rng.sample(_HEADS, 3):
            head = head.replace(old, new, 1)
        members[name] = head + members[name][128:]
    elif what < 0.9:
        members[name] = of_bytes(rng, members[name])
    else:
        del members[name]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for key, content in members.items():
            archive.writestr(key, content)
    return out.getvalue()


_HEADS = [
    (b"'<i8'", b"'|O' "), (b"'|u1'", b"'<u2'"), (b"'<f8'", b"'<f4'"), (b"False", b"True "), (b"(", b"(9" ), (b"(", b"(-"), (b", ", b",9"),
    (b"<", b">"), (b"'shape'", b"'shap'"), (b"{", b"["), (b"NUMPY", b"NUMPX"), (b")", b",)"), (b"(", b"(99999999999"), (b"\x01\x00", b"\x09\x00"),
]  # fmt: skip


def _array(rng: random.Random) -> np.ndarray:
    shape = rng.choice(
        [(), (0,), (1,), (3,), (8,), (4, 4), (8, 8), (0, 4), (4, 2, 2), (2, 8, 8, 3), (1, 1, 1, 3), (5, 4)]
    )
    kind = rng.choice(["u1", "i2", "i8", "u8", "f2", "f4", "f8", "c16", "?", "U3", "S2", "O", "M8[s]", "V4"])
    fill = rng.choice([0, 1, -1, 2**40, float("nan"), float("inf"), 1e300])
    if kind == "O":
        out = np.empty(shape, object)
        out[...] = Trap()
        return out
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(np.full(shape, fill)).astype(kind) if kind not in ("M8[s]", "V4") else np.zeros(shape, kind)


def of_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file: its header changed, or its bytes."""
    if rng.random() < 0.3:
        return of_bytes(rng, data)
    length = int.from_bytes(data[:8], "little")
    header = of_json(rng, data[8 : 8 + length])
    size = len(header) if rng.random() < 0.9 else rng.choice([0, 2**63, len(header) - 1, len(header) + 1, 2**40])
    return size.to_bytes(8, "little") + header + data[8 + length :]


def of_parquet(rng: random.Random, data: bytes) -> bytes:
    """A parquet file: a column of another type in the place of one, another row of metadata, or its bytes."""
    if rng.random() < 0.5:
        return of_bytes(rng, data)
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    names = [n for n in table.column_names if rng.random() < 0.9] or table.column_names
    columns = {name: table.column(name) for name in names}
    name = rng.choice(names)
    rows = table.num_rows
    columns[name] = rng.choice(
        [
            pa.array([None] * rows), pa.array([rng.choice([None, [1, 2], [1]]) for _ in range(rows)]), pa.array([1] * rows),
            pa.array(["a"] * rows), pa.array([b"\xff\xd8"] * rows), pa.array([{"bytes": b"", "path": None}] * rows), pa.array([[-5, 2**40]] * rows),
            pa.array([[1.5]] * rows), pa.array([[]] * rows, pa.list_(pa.int64())), pa.array([[1, None]] * rows), pa.array([True] * rows),
            pa.array([[1, 2]] * rows, pa.list_(pa.int32(), 2)), pa.array([{"bytes": None, "path": "/a/b.png"}] * rows),
            pa.array([1.5] * rows), pa.array([["a"]] * rows),
        ]
    )  # fmt: skip
    said = {
        **(table.schema.metadata or {}),
        rng.choice([b"codebook_size", b"grid", b"labels"]): json.dumps(odd(rng)).encode("utf-8", "surrogatepass"),
    }
    held = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(said), held)
    return held.getvalue()


# ------------------------------------------------------------------------------------------------ readers


@dataclass(frozen=True)
class Reader:
    """One reader. seeds: valid files by relative path, each a folder of its own; only those of `mutates` are changed. read: reads the folder."""

    seeds: Callable[[], Sequence[Mapping[str, bytes]]]
    read: Callable[[Path], object]
    mutates: Mapping[str, Callable[[random.Random, bytes], bytes]] = field(default_factory=dict)


def picture(format_: str = "PNG", size: tuple[int, int] = (24, 16), **how: Any) -> bytes:
    """A small picture's file."""
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(
        held, format_, **how
    )
    return held.getvalue()


def _bytes_of(write: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()


def _npz(**arrays: Any) -> bytes:
    held = io.BytesIO()
    np.savez(held, **arrays)
    return held.getvalue()


def _dataset(where: Path, **options: Any) -> None:
    from vtbench.data import open_dataset

    dataset = open_dataset(str(where), cache=where.parent / "cache", **options)
    for sample in dataset.samples:
        with contextlib.suppress(VtbenchError):
            sample.image()


def _tokbench() -> list[dict[str, bytes]]:
    words = [
        {
            "file_name": "a.png",
            "height": 16,
            "width": 24,
            "annotations": [{"rec": "Café", "bbox": [1.5, 2, 20, 12], "ratio": 0.12}],
        }
    ]
    kps = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    faces = [{"image_name": "p.png", "faces": [{"kps": kps, "box": [-4, 0, 20, 12], "gt": None, "ratio": 0.4}]}]
    return [
        {
            "images/text_data/ic13/a.png": picture(), "images/face_data/wflw/p.png": picture(),
            "annotations/text_ic13.json": json.dumps(words).encode(), "annotations/face_meta.json": json.dumps(faces).encode(),
        }
    ]  # fmt: skip


def _records() -> list[dict[str, bytes]]:
    from records_for_tests import make

    from vtbench.record import dumps

    return [{"records/a.json": dumps(make(n=5, status=status)).encode()} for status in ("ok", "partial")]


def _read_records(where: Path) -> None:
    from rich.console import Console

    from vtbench.records import find, read_all
    from vtbench.report.terminal import show
    from vtbench.table import csv_text, read_csv, rows

    records, problems = read_all(where)
    if problems:
        raise problems[0]
    for record in records:
        out = io.StringIO()
        show(record, Console(file=out, width=120), everything=True)
        assert "\x1b" not in out.getvalue(), "an escape reached the terminal"
        path = where / "table.csv"
        path.write_bytes(csv_text(rows(record)).encode())
        read_csv(path)
        find(where, record.run_id)


def _suites() -> list[dict[str, bytes]]:
    from vtbench._source import folder

    root = folder("suites")
    own = root / "protocols" / "tokbench.toml"
    small = (
        b'name = "s"\nversion = 1\ntask = "reconstruct"\nchunk = 2\nresolutions = [32, 0]\ncontrols = ["resize"]\n[data]\nbundled = "x"\n'
        b'[[metrics]]\nname = "psnr"\nprotocols = ["vtbench"]\nrecommended = "vtbench"\nslices = ["all"]\n'
        b'[[metrics]]\nname = "t_acc"\nprotocols = ["tokbench+faces=v1"]\n'
    )
    return [
        {"s.toml": small, "protocols/tokbench.toml": own.read_bytes()},
        *({"s.toml": p.read_bytes()} for p in sorted(root.glob("*.toml"))),
    ]


def _read_suite(where: Path) -> None:
    from vtbench import zoo
    from vtbench.plan import make_plan
    from vtbench.suite import load_suite

    suite = load_suite(str(where / "s.toml"))
    suite.digest()
    if suite.task == "reconstruct":
        make_plan(suite, zoo.load("resize"), resolutions=[r or None for r in suite.resolutions[:2]])


def _baselines() -> list[dict[str, bytes]]:
    from records_for_tests import make

    from vtbench.baseline import update

    records = [make(n=5)]
    text = _bytes_of(lambda p: update(records, p), "b.toml")
    text = text.replace(
        b"[tolerances]", b"[tolerances]\ndefault = {rel = 1e-4}\npsnr = {abs = 0.05}\nfid = {interval = true}"
    )
    return [{"b.toml": text}, {"b.json": _bytes_of(lambda p: update(records, p), "b.json")}]


def _read_baseline(where: Path) -> None:
    from records_for_tests import make

    from vtbench.baseline import load, update
    from vtbench.check import check

    records = [make(None, n=5)]
    path = next(where.glob("b.*"))
    for finding in check(records, load(path), path).findings:
        finding.name()
    update(records, path, suite="demo")


def _cards() -> list[dict[str, bytes]]:
    from vtbench.zoo.catalogue import FOLDER

    return [
        {f"{n}.toml": (FOLDER / f"{n}.toml").read_bytes()}
        for n in ("tiny", "flextok", "titok-l32", "jpeg")
        if (FOLDER / f"{n}.toml").is_file()
    ]


def _read_card(where: Path) -> None:
    from vtbench.zoo.catalogue import read

    read.cache_clear()
    card = read(next(where.glob("*.toml")))
    json.dumps(card.to_dict(), default=str)
    card.why_not()


def _statistics() -> list[dict[str, bytes]]:
    said = {
        "protocol": "clean",
        "protocol_digest": "x",
        "n": 5,
        "resolution": 256,
        "network": {"weights": "sha256:0"},
        "dataset": "d",
    }
    moments = {"mu": np.zeros(8), "sigma": np.eye(8), "mu_s": np.zeros(4), "sigma_s": np.eye(4)}
    rows = {"features_pool3": np.ones((5, 8), np.float32), "ids": np.array(list("abcde"))}
    return [{"s.npz": _npz(**moments)}, {"s.npz": _npz(**moments, **rows, vtbench=np.array(json.dumps(said)))}]


def _read_statistics(where: Path) -> None:
    from vtbench import reference
    from vtbench.suite import load_protocol

    reference.ARRAYS.update({"pool3": ("mu", "sigma", 8), "sfid": ("mu_s", "sigma_s", 4)})
    for said in (None, "clean"):
        found = reference.read_statistics(str(where / "s.npz"), said)
        if found is not None:
            found.refusal(load_protocol("clean"), 256, "pool3", {})


def _tokens() -> list[dict[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    ids = np.random.default_rng(0).integers(0, 16, (5, 4))
    facts = {"codebook_size": np.array(16), "grid": np.array([2, 2]), "ordered": np.array(True), "pixels": np.array(64)}
    more = {"codebook": np.ones((16, 3), np.float32), "labels": np.arange(5), "parts": np.zeros((5, 4), np.int64)}
    table = pa.table({"tokens": ids.tolist(), "label": list(range(5))}).replace_schema_metadata(
        {"codebook_size": "16", "grid": "[2, 2]"}
    )
    return [
        {"t.npz": _npz(tokens=ids, **facts, **more)},
        {
            "t.safetensors": save(
                {"tokens": ids, "codebook": more["codebook"], "labels": more["labels"]},
                {"codebook_size": "16", "grid": "[2, 2]"},
            )
        },
        {"t.parquet": _bytes_of(lambda p: pq.write_table(table, p), "t.parquet")},
    ]


def _read_tokens(where: Path) -> None:
    from vtbench.tokens.files import measurements, open_tokens

    found = measurements(open_tokens(next(where.glob("t.*"))))
    for column in ("ids", "used"):
        for _ in found[column].blocks():
            pass


def _precomputed() -> list[dict[str, bytes]]:
    return [
        {
            "a.png": picture(),
            "tokens.npz": _npz(ids=np.array(["a"]), tokens=np.array([[1, 2, 3]]), codebook_size=np.array([16])),
        }
    ]


def _read_precomputed(where: Path) -> None:
    import torch

    from vtbench.api import Condition
    from vtbench.zoo.precomputed import Precomputed

    model = Precomputed(at=str(where))
    tokens = model.encode(torch.zeros(1, 3, 16, 24), condition=[Condition("a", None, None)])
    tokens.bits()
    model.decode(tokens)


def _checkpoints() -> list[dict[str, bytes]]:
    import torch
    from safetensors.torch import save

    tensors = {"model.a": torch.zeros(2, 3), "model.b": torch.ones(4, dtype=torch.bfloat16)}
    index = json.dumps(
        {"metadata": {}, "weight_map": {"model.a": "one.safetensors", "model.b": "one.safetensors"}}
    ).encode()
    held: list[dict[str, bytes]] = [
        {"w.safetensors": save(tensors)},
        {"w.safetensors.index.json": index, "one.safetensors": save(tensors)},
    ]
    for how in ({}, {"_use_new_zipfile_serialization": False}):
        out = io.BytesIO()
        torch.save({"state_dict": tensors, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, out, **how)
        held.append({"w.pth": out.getvalue()})
    held.append({"w.pth": pickle.dumps({"state_dict": Trap()})})
    return held


def _read_checkpoint(where: Path) -> None:
    from vtbench.weights import read_state
    from vtbench.zoo.recognise import recognise

    recognise(read_state(next(where.glob("w.*"))).tensors)


def _pictures() -> list[dict[str, bytes]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [picture(f) for f in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")]
    made += [
        picture("JPEG", exif=exif),
        picture("TIFF", compression="tiff_lzw"),
        picture("PNG", exif=exif),
        picture("JPEG", progressive=True),
    ]
    held = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(held, "PNG")
    return [{"p": content} for content in [*made, held.getvalue()]]


def _read_picture(where: Path) -> None:
    from vtbench.data.decode import decode
    from vtbench.data.identity import identify

    content = (where / "p").read_bytes()
    identify(content, "p")
    decode(content, "p")


def _tars() -> list[dict[str, bytes]]:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in {
            "x/a.png": picture(),
            "x/a.cls": b"3",
            "x/a.json": b'{"label": 2, "caption": "c"}',
            "x/b.png": picture(size=(8, 8)),
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    import gzip

    return [{"d.tar": held.getvalue()}, {"d.tar.gz": gzip.compress(held.getvalue())}]


def _tables() -> list[dict[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": picture(), "path": f"{n}.png"} for n in "ab"]
    table = pa.table({"image": cells, "label": [1, 2], "caption": ["x", "y"], "id": ["a", "b"]})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    state = json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "test"}).encode()
    splits = json.dumps({"splits": ["test"]}).encode()
    return [
        {"d.parquet": _bytes_of(lambda p: pq.write_table(table, p), "d.parquet")},
        {
            "h/dataset_dict.json": splits,
            "h/test/state.json": state,
            "h/test/data-00000-of-00001.arrow": stream.getvalue(),
        },
    ]


def _any_data(where: Path) -> None:
    _dataset(next(p for p in sorted(where.iterdir()) if p.name != "cache"))


def _read_chunk(where: Path) -> None:
    from vtbench.engine.store import Store

    Store(where).get("ab12", "c0")


def _chunk() -> list[dict[str, bytes]]:
    from vtbench.engine.store import Measured, Store

    with tempfile.TemporaryDirectory() as folder:
        values = {"f": (np.ones((3, 4), np.float32), np.arange(3)), "t": (np.array(["a", "é", ""]), np.arange(3))}
        Store(Path(folder)).put("ab12", "c0", Measured(values, {1: "truncated"}, {"torch": "2"}))
        return [{"ab/ab12/c0.vtm": next(Path(folder).rglob("*.vtm")).read_bytes()}]


def _metadata() -> list[dict[str, bytes]]:
    return [{"x/a.png": picture(), "x/b.png": picture(size=(9, 9)), "m.csv": b"id,split,score\na,train,1\nb,test,2\n"}]


def _digests() -> list[dict[str, bytes]]:
    return [
        {
            "x/a.png": picture(),
            "cache/digests-v1.jsonl": json.dumps(["/x/a.png", 5, 7, "0" * 64, "png"]).encode() + b"\n",
        }
    ]


def _tidy() -> list[dict[str, bytes]]:
    from records_for_tests import make

    from vtbench.table import csv_text, rows

    return [{"t.csv": csv_text(rows(make(n=5))).encode()}]


def _read_tidy(where: Path) -> None:
    from vtbench.table import csv_text, read_csv

    csv_text(read_csv(where / "t.csv"))


def _sidecars() -> list[dict[str, bytes]]:
    return [{"x/a.png": picture(), "x/a.json": b'{"label": 2, "caption": "c"}', "x/a.cls": b"7", "x/a.txt": b"words"}]


def _archives() -> list[dict[str, bytes]]:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    return [{"d.npz": _npz(arr_0=images, arr_1=np.arange(2))}]


READERS: dict[str, Reader] = {
    "annotations": Reader(_tokbench, lambda w: _dataset(w, reader="tokbench"), {".json": of_json}),
    "record": Reader(_records, _read_records, {".json": of_json}),
    "suite": Reader(_suites, _read_suite, {".toml": of_toml}),
    "baseline": Reader(_baselines, _read_baseline, {".toml": of_toml, ".json": of_json}),
    "card": Reader(_cards, _read_card, {".toml": of_toml}),
    "statistics": Reader(_statistics, _read_statistics, {".npz": of_npz}),
    "tokens": Reader(_tokens, _read_tokens, {".npz": of_npz, ".safetensors": of_safetensors, ".parquet": of_parquet}),
    "precomputed": Reader(_precomputed, _read_precomputed, {".npz": of_npz, ".png": of_bytes}),
    "checkpoint": Reader(
        _checkpoints, _read_checkpoint, {".safetensors": of_safetensors, ".json": of_json, ".pth": of_bytes}
    ),
    "picture": Reader(_pictures, _read_picture, {"": of_bytes}),
    "tar": Reader(_tars, _any_data, {".tar": of_bytes, ".gz": of_bytes}),
    "table": Reader(_tables, _any_data, {".parquet": of_parquet, ".json": of_json, ".arrow": of_bytes}),
    "npz": Reader(_archives, _any_data, {".npz": of_npz}),
    "chunk": Reader(_chunk, _read_chunk, {".vtm": of_bytes}),
    "metadata": Reader(
        _metadata, lambda w: _dataset(w / "x", options={"metadata": str(w / "m.csv")}), {".csv": of_lines}
    ),
    "digests": Reader(_digests, lambda w: _dataset(w / "x"), {".jsonl": of_json}),
    "sidecars": Reader(_sidecars, lambda w: _dataset(w / "x"), {".json": of_json, ".cls": of_bytes, ".txt": of_bytes}),
    "tidy": Reader(_tidy, _read_tidy, {".csv": of_lines}),
}


# ------------------------------------------------------------------------------------------------ the loop


@dataclass(frozen=True)
class Found:
    """A case that a reader did not survive. where: the innermost line of vtbench's own."""

    reader: str
    case: int
    error: str
    where: str
    trace: str


def one(reader: Reader, rng: random.Random, folder: Path, seeds: Sequence[Mapping[str, bytes]]) -> None:
    """Write one mutated folder and read it; whatever is not a `VtbenchError` comes through."""
    files = dict(rng.choice(seeds))
    changeable = sorted(n for n in files if Path(n).suffix in reader.mutates)
    name = rng.choice(changeable)
    files[name] = reader.mutates[Path(name).suffix](rng, files[name])
    for relative, content in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with contextlib.suppress(VtbenchError), limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.read(folder)
    assert not Path(PWNED).exists() and not (folder / PWNED).exists(), "a pickle was executed"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise `Hang` in a block that takes too long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(name: str, seed: int, cases: Iterator[int], until: float, keep: Path | None = None) -> tuple[int, list[Found]]:
    """Feed one reader until a time. Returns how many cases it had, and what it did not survive, one a place in the code."""
    reader, found, count = READERS[name], {}, 0
    seeds = list(reader.seeds())
    for case in cases:
        if time.monotonic() > until:
            break
        count += 1
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            faulthandler.dump_traceback_later(6 * LIMIT_SECONDS, exit=True)  # a hang below Python, which no signal ends
            try:
                if keep is not None:
                    (keep / "last.txt").write_text(f"{name} {seed} {case}\n")
                one(reader, random.Random(f"{seed}/{name}/{case}"), Path(folder) / "case", seeds)
            except (Exception, Hang) as error:  # noqa: BLE001 - finding these is the point
                place = _place(error)
                if (type(error), place) not in found:
                    trace = "".join(traceback.format_exception(error))
                    found[type(error), place] = Found(
                        name, case, f"{type(error).__name__}: {str(error)[:200]}", place, trace
                    )
                    if keep is not None:
                        (keep / f"{name}-{seed}-{case}.txt").write_text(trace, "utf-8", "backslashreplace")
    faulthandler.cancel_dump_traceback_later()
    return count, list(found.values())


def _place(error: BaseException) -> str:
    own = [
        f for f in traceback.extract_tb(error.__traceback__) if "/vtbench/" in f.filename or "/metrics/" in f.filename
    ]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "fuzz"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the readers asked for; exit code 1 when any did not survive."""
    parser = argparse.ArgumentParser(description="Mutate valid files and hand them to the readers.")
    parser.add_argument("--reader", action="append", choices=sorted(READERS), help="repeatable; all by default")
    parser.add_argument("--seconds", type=float, default=60, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one, with its traceback")
    parser.add_argument("--keep", type=Path, default=None, help="folder for tracebacks")
    given = parser.parse_args(arguments)
    import torch  # noqa: F401 - before the limit on memory: its libraries map much and use little

    mapped = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if mapped:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES, resource.RLIM_INFINITY))
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    names = given.reader or sorted(READERS)
    bad = 0
    for name in names:
        cases = iter([given.case] if given.case is not None else range(10**9))
        until = time.monotonic() + given.seconds / len(names)
        count, found = run(name, given.seed, cases, until, given.keep)
        print(f"{name}: {count} cases, {len(found)} places not survived", flush=True)
        for one_ in found:
            bad += 1
            print(f"  case {one_.case}: {one_.where}: {one_.error!r}", flush=True)
            if given.case is not None:
                print(one_.trace)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
