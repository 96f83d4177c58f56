"""Talk on stderr: progress with rate and time left on a terminal, plain lines elsewhere, nothing from Python by default."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vtbench.console import printable, screen


class Silent:
    """Says nothing; the base of the talkers."""

    def say(self, text: str) -> None:
        """A remark."""

    def warn(self, text: str) -> None:
        """A warning."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Silent]:
        """A piece of work of `total` samples; call `advance` inside."""
        yield self

    def advance(self, count: int = 1) -> None:
        """Some samples are done."""


class Plain(Silent):
    """Plain lines: one at the start of a task, one every ten seconds, one at its end."""

    def __init__(self) -> None:
        self._title, self._total, self._done, self._start, self._last = "", 0, 0, 0.0, 0.0

    def say(self, text: str) -> None:
        """A remark."""
        print(printable(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A warning."""
        print(printable(f"warning: {text}"), file=sys.stderr, flush=True)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Silent]:
        """A piece of work of `total` samples."""
        self._title, self._total, self._done = title, total, 0
        self._start = self._last = time.monotonic()
        yield self

    def advance(self, count: int = 1) -> None:
        """Some samples are done."""
        self._done += count
        now = time.monotonic()
        if now - self._last < 10 and self._done < self._total:
            return
        self._last = now
        rate = self._done / max(now - self._start, 1e-6)
        left = (self._total - self._done) / max(rate, 1e-9)
        self.say(f"{self._title}: {self._done}/{self._total} images, {rate:.1f}/s, {left:.0f} s left")


class Rich(Silent):
    """Bars on a terminal."""

    def __init__(self) -> None:
        self.console = screen(stderr=True)
        self._progress: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """A remark."""
        self.console.print(text, markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """A warning."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Silent]:
        """A piece of work of `total` samples."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class Rate(TextColumn):
            """Images per second."""

            def render(self, task: Any) -> Text:
                return Text(f"{task.speed:.1f} images/s" if task.speed else "")

        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as self._progress:
            self._task = self._progress.add_task(printable(title), total=total)
            yield self
        self._progress = None

    def advance(self, count: int = 1) -> None:
        """Some samples are done."""
        if self._progress is not None:
            self._progress.advance(self._task, count)


def hashing(talk: Silent, where: str) -> Callable[[int, int], None]:
    """What is called with (done, total) while files are hashed, and says so at every ten thousandth."""
    shown = 0

    def hashed(done: int, total: int) -> None:
        nonlocal shown
        if done - shown >= 10_000:
            shown = done
            talk.say(f"{where}: {done} of {total} files hashed")

    return hashed


def talker() -> Silent:
    """Rich on a terminal, plain lines otherwise."""
    return Rich() if sys.stderr.isatty() else Plain()
