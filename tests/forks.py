"""The command line in forked processes: torch is imported once, so that a test can start, starve, stop and kill many runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

PRELOAD = (
    "vtbench.cli.reconstruct",
    "vtbench.evaluation",
    "vtbench.passes",
    "vtbench.data.open",
    "vtbench.data.images",
    "pyarrow.parquet",
    "PIL.Image",
    "rich.table",
)
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(list(PRELOAD))


class Done(NamedTuple):
    """How a run ended: its exit code (minus a signal's number where one killed it), stdout and stderr."""

    code: int
    out: str
    err: str


class Run:
    """`vtbench ARGUMENTS` in a process of its own.

    before: called in it first, with `told`. limits: resources by name (``RLIMIT_FSIZE``) with the most of each."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        before: Callable[..., None] | None = None,
        told: Sequence[Any] = (),
        limits: Mapping[str, int] | None = None,
    ) -> None:
        ends = [_server.Pipe(duplex=False) for _ in range(3)]
        self.process = _server.Process(
            target=_child,
            args=(
                list(arguments),
                os.getcwd(),
                ends[0][1],
                ends[1][1],
                ends[2][1],
                before,
                tuple(told),
                dict(limits or {}),
            ),
        )
        self.process.start()
        ready, told_so = ends.pop()
        told_so.close()
        with contextlib.suppress(EOFError):  # it died before it began
            ready.recv()
        self._texts: list[list[bytes]] = [[], []]
        self._threads = []
        for (reader, writer), text in zip(ends, self._texts):
            writer.close()
            self._threads.append(threading.Thread(target=_drain, args=(reader, text), daemon=True))
            self._threads[-1].start()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless it has ended."""
        if self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def end(self, timeout: float = 60) -> Done:
        """Wait for it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {timeout} s: {b''.join(self._texts[1])[-2000:]!r}")
        for thread in self._threads:
            thread.join(10)
        return Done(self.process.exitcode, *(b"".join(text).decode() for text in self._texts))


def run(arguments: Sequence[str], **how: Any) -> Done:
    """Run the command line to its end."""
    return Run(arguments, **how).end()


def _drain(reader: Connection, text: list[bytes]) -> None:
    while part := os.read(reader.fileno(), 1 << 16):
        text.append(part)
    reader.close()


def _child(
    arguments: list[str],
    folder: str,
    out: Connection,
    err: Connection,
    ready: Connection,
    before: Callable[..., None] | None,
    told: tuple[Any, ...],
    limits: dict[str, int],
) -> None:
    os.chdir(folder)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["vtbench", *arguments]
    from vtbench import cli

    for name, most in limits.items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
    if before is not None:
        before(*told)
    code: Any = 0
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ready.send(None)
    ready.close()
    try:
        cli.main()
    except SystemExit as stopped:
        code = stopped.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


# ------------------------------------------------------------------------------------------------ faults


def no_space_from(write: int) -> None:
    """The n-th file that is written, and all after it, find the disk full."""
    import errno

    real, count = os.replace, [0]

    def full(source: Any, target: Any) -> None:
        count[0] += 1
        if count[0] >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(source))
        real(source, target)

    os.replace = full


def clock_that_jumps(seconds: float) -> None:
    """Every look at the wall clock finds it a good deal on, or back."""
    real, real_ns, looks = time.time, time.time_ns, [0]

    def jump() -> float:
        looks[0] += 1
        return seconds * (1 if looks[0] % 2 else -1)

    time.time = lambda: real() + jump()
    time.time_ns = lambda: real_ns() + int(jump() * 1e9)


def reader_that_hangs(name: str, looks: int) -> None:
    """A file whose reading never ends, from the n-th time on."""
    from vtbench.data.sources import FileSource

    real, count = FileSource.read, [0]

    def read(self: FileSource) -> bytes:
        if Path(self.path).name == name:
            count[0] += 1
            if count[0] >= looks:
                time.sleep(3600)
        return real(self)

    FileSource.read = read  # type: ignore[method-assign]


def disk_that_fails(name: str) -> None:
    """A file that was hashed and then cannot be read."""
    import errno

    from vtbench.data.sources import FileSource
    from vtbench.errors import Unread

    real, count = FileSource.read, [0]

    def read(self: FileSource) -> bytes:
        if Path(self.path).name == name:
            count[0] += 1
            if count[0] > 1:
                raise Unread(f"cannot read {self.path}: {os.strerror(errno.EIO)}")
        return real(self)

    FileSource.read = read  # type: ignore[method-assign]


def little_memory(spare: int) -> None:
    """Only so many bytes beyond what is mapped already."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + spare, resource.RLIM_INFINITY))
