"""Several processes, one evaluation: chunk i belongs to rank i mod world; rank 0 alone reduces, writes and prints."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from vtbench.errors import VtbenchError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place in the group; (0, 1) when there is none."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reduces, writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's items: nothing is padded, nothing is dropped."""
        return items[self.rank :: self.world]

    def same(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def together(self, work: Callable[[], None]) -> None:
        """Do this rank's part and wait for the others; when one fails, all raise what it said (nobody waits for ever)."""
        if self.world == 1:
            work()
            return
        import torch.distributed as dist

        problem: BaseException | None = None
        try:
            work()
        except Exception as error:  # noqa: BLE001 - it is raised again below, after the others know of it
            problem = error
        said: list[Any] = [None] * self.world
        dist.all_gather_object(said, None if problem is None else f"{type(problem).__name__}: {problem}")
        if problem is not None:
            raise problem
        failed = [(rank, text) for rank, text in enumerate(said) if text]
        if failed:
            raise VtbenchError(
                f"rank {failed[0][0]} of {self.world} failed: {failed[0][1]}", "Its complete chunks are kept"
            )


def ranks() -> Ranks:
    """The initialised process group's, else (0, 1). Imports nothing when torch is not loaded."""
    import sys

    if "torch" not in sys.modules:
        return Ranks()
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def join() -> Ranks:
    """Under torchrun or accelerate (RANK and WORLD_SIZE are set), initialise the process group: nccl with a GPU a rank, else gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return Ranks()
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        atexit.register(_leave)
    return ranks()


def _leave() -> None:
    """Wait for the others, and take the group down before the interpreter goes: its threads may abort a process whose peer has ended already."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    with suppress(
        RuntimeError, ValueError
    ):  # a rank that failed does not come; of groups that are not gloo's alone there is no such barrier
        dist.monitored_barrier(timeout=timedelta(seconds=10))
    dist.destroy_process_group()
