"""The parent's side of one worker process: start it, ask it something within a time limit, end it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtbench.zoo.upstream import worker

LIMIT = "VTBENCH_WORKER_TIMEOUT"
DEFAULT_LIMIT = 1800.0
_DROPPED = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "VIRTUAL_ENV",
)


class Fault(Exception):
    """A worker that died, hung or wrote something that is no answer; it has been ended. The message says which, and quotes its last words."""


class Died(Fault):
    """The process ended by itself."""


def time_limit() -> float:
    """Seconds that one message may take: VTBENCH_WORKER_TIMEOUT, or half an hour."""
    try:
        return float(os.environ.get(LIMIT, "")) or DEFAULT_LIMIT
    except ValueError:
        return DEFAULT_LIMIT


def environment(threads: int) -> dict[str, str]:
    """The worker's environment variables: the user's without what would lead Python to other packages, without tokens, the hub offline, one hash seed, as many threads as here."""
    kept = {k: v for k, v in os.environ.items() if k not in _DROPPED}
    count = str(threads)
    return kept | {
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
    }


class Process:
    """One running worker, ended with this object. Its stdout and stderr go to a log file, which stays only after a fault."""

    def __init__(self, python: str, name: str, *, threads: int = 1, script: Path | None = None) -> None:
        handle, log = tempfile.mkstemp(prefix=f"vtbench-{name}-", suffix=".log")
        self.log, self._count = Path(log), 0
        to_worker, self._write = os.pipe()
        self._read, from_worker = os.pipe()
        try:
            self._child = subprocess.Popen(
                [python, str(script or Path(worker.__file__)), str(to_worker), str(from_worker)],
                pass_fds=(to_worker, from_worker),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=environment(threads),
                start_new_session=True,
            )
        except OSError as error:
            for fd in (self._read, self._write):
                os.close(fd)
            self.log.unlink(missing_ok=True)
            raise Died(f"the interpreter {python} cannot be started: {error.strerror or error}") from error
        finally:
            for fd in (to_worker, from_worker, handle):
                os.close(fd)
        for fd in (self._read, self._write):
            os.set_blocking(fd, False)
        self._end = weakref.finalize(self, _end, self._child, (self._read, self._write), self.log)

    def ask(
        self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None, *, limit: float | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a message and wait for its answer. Raises `Died` or another `Fault` (the worker is ended then); an exception in the worker is an answer (``error``)."""
        limit = time_limit() if limit is None else limit
        deadline = time.monotonic() + limit
        self._count += 1
        try:
            for part in worker.pack({**header, "id": self._count}, arrays):
                self._put(part, deadline)
            reply, out = worker.unpack(lambda n: self._get(n, deadline))
            if reply.get("id") != self._count:
                raise worker.BadMessage(f"an answer to message {reply.get('id')!r} instead of {self._count}")
        except TimeoutError:
            raise self._fault(Fault, f"gave no answer within {limit:g} s ({LIMIT} sets the limit)") from None
        except worker.BadMessage as error:
            raise self._fault(Fault, f"wrote {error}") from error
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._fault(Died, _cause(self._child)) from None
        except BaseException:
            self.close()  # interrupted halfway: what stands on the pipe is of no use
            raise
        return reply, out

    def _put(self, data: bytes | memoryview, deadline: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._write, select.POLLOUT, deadline)
            left = left[os.write(self._write, left[: 1 << 16]) :]

    def _get(self, count: int, deadline: float) -> bytes:
        found = bytearray()
        while len(found) < count:
            self._wait(self._read, select.POLLIN, deadline)
            block = os.read(self._read, min(count - len(found), 1 << 20))
            if not block:
                raise EOFError
            found += block
        return bytes(found)

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        poll = select.poll()
        poll.register(fd, event)
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError

    def _fault(self, kind: type[Fault], what: str) -> Fault:
        last = self.last_words()
        self.leave()
        return kind(f"{what}{f'; its last words: {last}' if last else ''}; log: {self.log}")

    def last_words(self) -> str:
        """The last line of the log, cut to 300 characters."""
        try:
            with self.log.open("rb") as content:
                content.seek(max(0, self.log.stat().st_size - 4096))
                lines = content.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((" ".join(line.split())[-300:] for line in reversed(lines) if line.strip()), "")

    def alive(self) -> bool:
        """Whether the process runs and can be asked."""
        return self._end.alive and self._child.poll() is None

    def close(self) -> None:
        """End the process and remove its log."""
        self._end()

    def leave(self) -> None:
        """End the process; its log stays, for people to look at."""
        if self._end.detach():
            _end(self._child, (self._read, self._write), None)


def _end(child: subprocess.Popen[bytes], fds: tuple[int, int], log: Path | None) -> None:
    """Close the pipes, which ends an idle worker; kill it with whatever it started when that does not help at once."""
    for fd in fds:
        os.close(fd)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(0.2)
    _kill(child)
    child.wait()
    if log is not None:
        log.unlink(missing_ok=True)


def _kill(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)  # the worker leads a session of its own: nothing else is in the group
    except (ProcessLookupError, PermissionError):
        return


def _cause(child: subprocess.Popen[bytes]) -> str:
    try:
        code = child.wait(2.0)
    except subprocess.TimeoutExpired:
        return "closed its pipe"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
