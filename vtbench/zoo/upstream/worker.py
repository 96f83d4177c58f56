"""The worker: runs in the interpreter of an upstream package and does what the parent asks, one message at a time.

Started as ``PYTHON worker.py READ_FD WRITE_FD``. It needs the standard library and NumPy, and through its driver the authors' package; vtbench need not be importable. What upstream code prints goes
wherever stdout and stderr lead (a log file): messages have a pipe of their own.

A message: 8 bytes of magic, the header's length (4 bytes, little-endian), the header (JSON, UTF-8), then the bytes of its arrays one after the other. The header
names them: ``{"arrays": [{"name", "dtype", "shape"}], ...}``. Nothing is ever unpickled, and every size is checked before anything is allocated.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"VTBWORK1"
HEADER_LIMIT = 1 << 20
ARRAYS_LIMIT = 1 << 33
SHARED = ("driving", "distilling")
"""Files beside this one that drivers import as ``vtbench_NAME``, each after those that it imports itself."""
DTYPES = ("|b1", "|u1", "|i1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")


class BadMessage(Exception):
    """Bytes on the pipe that are no message."""


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> list[bytes | memoryview]:
    """A message as the pieces to write. Raises `BadMessage` for an array whose dtype is not one of `DTYPES` or a header over `HEADER_LIMIT`."""
    specs, parts = [], []
    for name, value in (arrays or {}).items():
        array = np.ascontiguousarray(value)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype.str not in DTYPES:
            raise BadMessage(f"the array {name} has the dtype {array.dtype}, which does not travel")
        specs.append({"name": name, "dtype": array.dtype.str, "shape": list(np.shape(value))})
        parts.append(memoryview(array.reshape(-1).view(np.uint8)) if array.size else b"")  # type: ignore[arg-type]
    text = json.dumps({**header, "arrays": specs}).encode()
    if len(text) > HEADER_LIMIT:
        raise BadMessage(f"a header of {len(text)} bytes is over the limit of {HEADER_LIMIT}")
    return [MAGIC + len(text).to_bytes(4, "little") + text, *parts]


def unpack(read: Callable[[int], bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The next message. read: gives exactly n bytes, or raises `EOFError`. Raises `BadMessage` for anything that is none, before allocating what it claims to need."""
    start = read(len(MAGIC) + 4)
    if start[: len(MAGIC)] != MAGIC:
        raise BadMessage(f"the bytes {start!r} begin no message")
    length = int.from_bytes(start[len(MAGIC) :], "little")
    if length > HEADER_LIMIT:
        raise BadMessage(f"a header of {length} bytes is over the limit of {HEADER_LIMIT}")
    try:
        header = json.loads(read(length))
        specs = [_spec(spec) for spec in header.pop("arrays")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadMessage(f"a header that cannot be read ({type(error).__name__}: {error})") from error
    total = sum(size for *_, size in specs)
    if total > ARRAYS_LIMIT:
        raise BadMessage(f"arrays of {total} bytes are over the limit of {ARRAYS_LIMIT}")
    arrays = {}
    for name, dtype, shape, size in specs:
        arrays[name] = np.frombuffer(bytearray(read(size)), dtype).reshape(shape)
    return header, arrays


def _spec(spec: Any) -> tuple[str, str, tuple[int, ...], int]:
    """One array of a header, checked: name, dtype, shape, bytes."""
    name, dtype, shape = spec["name"], spec["dtype"], spec["shape"]
    if not isinstance(name, str) or dtype not in DTYPES:
        raise ValueError(f"an array named {name!r} of dtype {dtype!r}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an array of shape {shape!r}")
    size = np.dtype(dtype).itemsize
    for n in shape:
        size *= n
    return name, dtype, tuple(shape), size


# -------------------------------------------------------------------------------------------------- serving


def load_driver(path: str) -> Any:
    """The driver's module, from its file; the files of `SHARED` are there as ``vtbench_driving`` and so on."""
    for shared in SHARED:
        if f"vtbench_{shared}" not in sys.modules:
            _module(f"vtbench_{shared}", Path(__file__).with_name(f"{shared}.py"))
    return _module(f"vtbench_driver_{Path(path).stem}", Path(path))


def _module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"no driver {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


class Served:
    """What one worker holds: the driver and, once loaded, its model."""

    def __init__(self) -> None:
        self.driver: Any = None
        self.model: Any = None

    def do(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Answer one message: a table and arrays."""
        op = header["op"]
        if op == "open":
            for folder in reversed(header["path"]):
                sys.path.insert(0, folder)
            self.driver = load_driver(header["driver"])
            return {"python": sys.version.split()[0]}, {}
        if op == "small":
            made = self.driver.small(source=header["source"], folder=header["folder"], seed=header["seed"])
            return dict(made), {}
        if op == "load":
            self.model = None
            self.model = self.driver.load(**header["arguments"])
            return {"description": self.model.describe(), "versions": versions()}, {}
        if op == "encode":
            return {}, dict(self.model.encode(arrays["images"], **header["options"]))
        if op == "decode":
            return {}, {"images": self.model.decode(arrays, **header["options"])}
        if op == "codebook":
            book = self.model.codebook() if hasattr(self.model, "codebook") else None
            return {}, {} if book is None else {"codebook": book}
        raise ValueError(f"no operation {op!r}")


def versions() -> dict[str, str]:
    """The interpreter, and the top-level packages in use that tell their version."""
    found = {"python": sys.version.split()[0]}
    for name, module in sorted(sys.modules.items()):
        version = getattr(module, "__version__", None)
        if "." not in name and not name.startswith("_") and isinstance(version, str):
            found[name] = version[:40]
    return dict(list(found.items())[:200])


def told(error: BaseException) -> dict[str, Any]:
    """An exception as data: its class, message, the missing module's name, whether memory ran out, and the traceback."""
    name = type(error).__name__
    return {
        "error": {
            "type": name,
            "bases": [c.__name__ for c in type(error).__mro__],
            "message": str(error)[:4000],
            "module": getattr(error, "name", None) if isinstance(error, ImportError) else None,
            "memory": name in ("OutOfMemoryError", "MemoryError"),
            "traceback": "".join(traceback.format_exception(type(error), error, error.__traceback__))[-20000:],
        }
    }


def main(read_fd: int, write_fd: int) -> None:
    """Answer messages until the parent closes its end."""
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [p for p in sys.path if os.path.realpath(p or ".") != here]
    for fd in (read_fd, write_fd):
        os.set_inheritable(fd, False)
    requests, replies = os.fdopen(read_fd, "rb"), os.fdopen(write_fd, "wb")

    def read(n: int) -> bytes:
        found = requests.read(n)
        if len(found) != n:
            raise EOFError
        return found

    served = Served()
    while True:
        try:
            header, arrays = unpack(read)
        except EOFError:
            return
        try:
            reply, out = served.do(header, arrays)
            parts = pack({"id": header["id"], **reply}, {k: np.asarray(v) for k, v in out.items()})
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever upstream code raises is told to the parent
            traceback.print_exc()
            parts = pack({"id": header.get("id"), **told(error)})
        try:
            for part in parts:
                replies.write(part)
            replies.flush()
        except BrokenPipeError:
            return  # the parent waits no longer


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
