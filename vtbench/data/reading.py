"""Threads that read samples, waited for no longer than a limit: a file system that hangs must not hang the run.

A thread cannot be stopped from outside. One that is stuck is left behind (it ends with the process), another takes its place, and its
sample is lost for this run."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Any, Generic, TypeVar

from vtbench.errors import Unread

T = TypeVar("T")

LIMIT = 300.0
"""Seconds that one sample may take to be read, unless told otherwise."""


class Hung(Unread):
    """A sample was not read within the limit."""

    def __init__(self, name: str, limit: float) -> None:
        super().__init__(
            f"{name} was not read within {limit:g} s", "Is its disk or network there? --read-timeout sets the limit"
        )


class Reading(Generic[T]):
    """A piece of reading, waiting, running or done."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        self.name, self.work = name, work
        self.future: Future[T] = Future()
        self.started: float | None = None


class Readers:
    """A few threads that take jobs in the order of their submission.

    limit: seconds a job may run (None: for ever); by a clock that does not jump."""

    def __init__(self, threads: int, limit: float | None = LIMIT) -> None:
        self.limit = limit
        self._jobs: queue.SimpleQueue[Reading[Any] | None] = queue.SimpleQueue()
        self._count = max(1, threads)
        for _ in range(self._count):
            self._start()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *why: object) -> None:
        while True:  # what nobody will ask for any more
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._count):
            self._jobs.put(None)

    def submit(self, name: str, work: Callable[[], T]) -> Reading[T]:
        """Have something read. name: how messages call it."""
        job = Reading(name, work)
        self._jobs.put(job)
        return job

    def result(self, job: Reading[T]) -> T:
        """What a job gave, or the exception that it raised. Raises `Hung` when it runs longer than the limit.

        Jobs are asked for in the order of their submission."""
        wait = self.limit
        while True:
            try:
                return job.future.result(wait)
            except Late:
                if job.future.done():
                    raise  # the job's own
                assert self.limit is not None
                ran = 0.0 if job.started is None else time.monotonic() - job.started
                wait = self.limit - ran
                if wait <= 0:
                    self._start()  # in the place of the thread that is stuck
                    raise Hung(job.name, self.limit) from None

    def _start(self) -> None:
        threading.Thread(target=self._work, name="vtbench-reader", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.started = time.monotonic()
            try:
                job.future.set_result(job.work())
            except BaseException as error:  # noqa: BLE001 - it is raised again where the result is asked for
                job.future.set_exception(error)
