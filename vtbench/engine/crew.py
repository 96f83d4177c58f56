"""Chunks handed out to workers as they finish; what a lost worker had is done elsewhere, and what fails three times is set aside.

The scheduling alone: how a worker is started and spoken to is a `Hands` (local processes, Ray's actors). Needs no torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from vtbench.errors import VtbenchError

TRIES = 3
"""How often a chunk is tried, and how often a worker that dies is started anew without having finished anything in between."""


@dataclass(frozen=True)
class Event:
    """What a worker says: it is `ready`; a task is `done` (what: its report) or has `failed` (what: why); it is `lost` (what: how);
    or it has something to tell people (`said`).

    final: of a failure, that trying again is of no use. error: of a failure that must end the run, what to raise."""

    slot: int
    kind: Literal["ready", "done", "failed", "lost", "said"]
    what: Any = None
    final: bool = False
    error: VtbenchError | None = None


class Hands(Protocol):
    """Workers of one kind, by slot."""

    def start(self, slot: int) -> None:
        """Start a worker, or start it anew; it says `ready` when it can be given a task."""
        ...

    def give(self, slot: int, task: Any, upcoming: Any) -> None:
        """Hand a task to a worker that is ready. upcoming: what it will probably be given next (None: nothing), to load ahead."""
        ...

    def wait(self) -> Sequence[Event]:
        """Block until a worker says something."""
        ...

    def name(self, slot: int) -> str:
        """What messages call a worker."""
        ...


@dataclass
class Outcome:
    """reports: of the tasks that are done, by number. lost: why a task was set aside, by number. slots: who did a task."""

    reports: dict[int, Any] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)


class Crew:
    """Workers that take tasks as they finish."""

    def __init__(self, hands: Hands, slots: int, *, warn: Callable[[str], None] = lambda text: None) -> None:
        self.hands, self.warn = hands, warn
        self.alive = set(range(slots))
        self.ready: set[int] = set()
        self.deaths = dict.fromkeys(self.alive, 0)
        for slot in sorted(self.alive):
            hands.start(slot)

    def do(self, tasks: Sequence[Any], *, done: Callable[[int, Any], None] = lambda number, report: None) -> Outcome:
        """Have every task done once. done: called with a task's number and report as each is finished.

        Raises the error of a worker that cannot work at all, and `VtbenchError` when no worker is left, or when nothing succeeds."""
        out = Outcome()
        queue = deque(range(len(tasks)))
        hints: dict[int, int] = {}
        busy: dict[int, int] = {}
        tried: dict[int, list[tuple[int, str]]] = {}

        def failed(number: int, slot: int, why: str, final: bool) -> None:
            tried.setdefault(number, []).append((slot, why))
            count = len(tried[number])
            if not final and count < TRIES:
                self.warn(f"{why}: its chunk is tried again elsewhere")
                queue.appendleft(number)
                return
            out.lost[number] = why if final and count == 1 else f"failed {count} times, the last time: {why}"
            if not out.reports and len(out.lost) >= min(TRIES, len(tasks)):
                raise VtbenchError(out.lost[number], "Nothing could be measured")

        while queue or busy:
            for slot in sorted(self.ready - set(busy)):
                number = self._choose(queue, slot, tried, hints)
                if number is not None:
                    queue.remove(number)
                    busy[slot] = number
                    following = self._choose(queue, slot, tried, hints, steal=False)
                    if following is not None:
                        hints[slot] = following
                    self.hands.give(slot, tasks[number], None if following is None else tasks[following])
            for event in self.hands.wait():
                slot = event.slot
                if event.kind == "said":
                    self.warn(str(event.what))
                elif event.kind == "ready":
                    self.ready.add(slot)
                elif event.kind == "done":
                    number = busy.pop(slot)
                    self.deaths[slot] = 0
                    out.reports[number], out.slots[number] = event.what, slot
                    done(number, event.what)
                elif event.error is not None:
                    raise event.error
                elif event.kind == "failed":
                    if event.final:
                        self.ready.discard(slot)  # it ends by itself
                    failed(busy.pop(slot), slot, str(event.what), event.final)
                else:
                    self._bury(slot, str(event.what))
                    if slot in busy:
                        failed(busy.pop(slot), slot, f"{self.hands.name(slot)} {event.what}", event.final)
        return out

    def _choose(
        self,
        queue: deque[int],
        slot: int,
        tried: dict[int, list[tuple[int, str]]],
        hints: dict[int, int],
        *,
        steal: bool = True,
    ) -> int | None:
        """The next task for a worker: what it loads already, else what no other worker loads, else (`steal`) any; none that it failed itself, as long
        as there is another worker to try."""
        mine = hints.pop(slot, None)
        if mine in queue:
            return mine
        elsewhere = set(hints.values())
        fit = [n for n in queue if self.alive == {slot} or slot not in {s for s, _ in tried.get(n, ())[-1:]}]
        return next((n for n in fit if n not in elsewhere), fit[0] if fit and steal else None)

    def _bury(self, slot: int, how: str) -> None:
        """A worker is lost: start it anew, unless it dies again and again."""
        self.ready.discard(slot)
        self.deaths[slot] += 1
        if self.deaths[slot] < TRIES:
            self.hands.start(slot)
            return
        self.alive.discard(slot)
        if not self.alive:
            raise VtbenchError(
                f"no worker is left: {self.hands.name(slot)} {how}", "Everything measured before is kept"
            )
        self.warn(f"{self.hands.name(slot)} was lost {TRIES} times and is not started again ({how})")
