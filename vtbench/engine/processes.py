"""Workers as processes of this machine, one a slot, each on its device."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from vtbench.engine.crew import Event


class Processes:
    """Local processes (a `vtbench.engine.crew.Hands`). Each is a fresh interpreter that imports vtbench alone, never the caller's script.

    job: what every worker is sent first. devices: of each slot. A worker that dies, however that is, is seen at once; all are stopped
    when the block ends, and stop by themselves when this process is gone."""

    def __init__(self, job: Any, devices: Sequence[str]) -> None:
        self.job, self.devices = job, list(devices)
        self._pipes: dict[int, Connection[Any, Any]] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *why: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for slot, process in self._processes.items():
            with contextlib.suppress(KeyError):
                self._pipes.pop(slot).close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def name(self, slot: int) -> str:
        """Such as `worker 1 (cuda:1)`."""
        return f"worker {slot} ({self.devices[slot]})"

    def start(self, slot: int) -> None:
        """Start a process; what it prints goes to stderr, since stdout is data."""
        ours, theirs = socket.socketpair()
        paths = [os.path.abspath(p) for p in sys.path if p]
        with theirs:
            self._processes[slot] = subprocess.Popen(
                [sys.executable, "-c", "from vtbench.worker import main; main()", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
            )
        pipe: Connection[Any, Any] = Connection(ours.detach())
        self._pipes[slot] = pipe
        self._send(slot, (self.job, self.devices[slot]))

    def give(self, slot: int, task: Any, upcoming: Any) -> None:
        """Hand a task over."""
        self._send(slot, (task, upcoming))

    def _send(self, slot: int, what: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead: `wait` says so
            self._pipes[slot].send(what)

    def wait(self) -> Sequence[Event]:
        """Block until a worker says something or dies."""
        slots = {pipe: slot for slot, pipe in self._pipes.items()}
        return [self._event(slots[pipe], pipe) for pipe in wait(list(slots)) if isinstance(pipe, Connection)]

    def _event(self, slot: int, pipe: Connection[Any, Any]) -> Event:
        try:
            kind, what = pipe.recv()
        except (EOFError, OSError):
            return self._lost(slot)
        if kind in ("refused", "hopeless"):
            return Event(slot, "failed", what, error=what)
        if kind == "failed":
            from vtbench.memory import poisoned

            return Event(slot, "failed", what, final=poisoned(what))
        return Event(slot, kind, what)

    def _lost(self, slot: int) -> Event:
        self._pipes.pop(slot).close()
        code = self._processes.pop(slot).wait()
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += " (by the system, where memory ran out)"
        else:
            how = f"ended with exit code {code}"
        return Event(slot, "lost", how)
