"""Workers as actors of a Ray cluster, one a GPU (or a CPU), on whatever machines it has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vtbench.engine.crew import Event
from vtbench.errors import MissingPackage, UsageError

if TYPE_CHECKING:
    from vtbench.options import Options

OBJECTS = 128 << 20
"""Bytes of the object store of a cluster that is started here: tasks and reports are small, measurements go to the store's folder."""

PATIENCE = 60.0
"""Seconds without a sign of any worker after which it is said that the cluster may lack what was asked of it."""


def _passed_on() -> dict[str, str]:
    """The environment of this process that moves what a worker does: where it looks, and that it stays off the network. No credentials."""
    secret = ("TOKEN", "KEY", "SECRET", "PASSWORD")
    ours = {k: v for k, v in os.environ.items() if k.startswith(("VTBENCH_", "HF_", "TRANSFORMERS_"))}
    return {k: v for k, v in ours.items() if not any(word in k for word in secret)}


@contextmanager
def _modules_found() -> Iterator[None]:
    """What is started here finds the modules that this process finds, and leaves a card that is not asked for alone."""
    paths = [os.path.abspath(p) for p in sys.path if p]
    changed = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    before = {k: os.environ.get(k) for k in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


class Actors:
    """Ray's actors (a `vtbench.engine.crew.Hands`). job: what every worker is sent first. count: how many there are.

    ``RAY_ADDRESS`` names the cluster (``auto``: the one that runs here); without it one is started on this machine, and stopped at the end. The
    store's folder, weights and images must be at the same paths (or URLs) on all machines. Raises `MissingPackage`, and `UsageError` when there is no such
    cluster, or a GPU is asked of one that has none."""

    def __init__(self, job: Any, options: Options) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingPackage("ray", "ray", "--engine ray") from error
        self.ray, self.job, self.options = ray, job, options
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, str]] = {}
        self._remarks: list[Event] = []

    def __enter__(self) -> Actors:
        ray = self.ray
        self._ours = not ray.is_initialized()
        address = os.environ.get("RAY_ADDRESS")
        if self._ours:
            how: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
            if address:
                how["runtime_env"] = {"env_vars": _passed_on()}
            else:
                cores = max(os.cpu_count() or 1, self.options.workers or 1)
                how |= {
                    "address": "local",
                    "include_dashboard": False,
                    "object_store_memory": OBJECTS,
                    "num_cpus": cores,
                }
            try:
                with _modules_found():
                    ray.init(**how)
            except (ConnectionError, RuntimeError, ValueError) as error:
                line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise UsageError(
                    f"no Ray cluster at {address or 'this machine'}: {line}", "Check RAY_ADDRESS"
                ) from error
        there = ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        asked = self.options.resolved_device()  # the record names it, so workers use no other kind
        if asked.startswith("cuda") and not gpus:
            raise UsageError(f"--device {asked}: the Ray cluster has no GPU", "Give --device cpu")
        self.device = "cuda:0" if asked.startswith("cuda") else "cpu"
        self.count = self.options.workers or max(1, gpus if self.device == "cuda:0" else cpus)
        if gpus and self.device == "cpu" and not self.options.device:
            self._remarks.append(Event(0, "said", f"the Ray cluster has {gpus} GPUs: --device cuda uses them"))
        self._needs = {"num_cpus": 1, "num_gpus": 1 if self.device == "cuda:0" else 0, "max_restarts": 0}
        self._class = ray.remote(Holder)
        self._job = ray.put(self.job)
        return self

    def __exit__(self, *why: object) -> None:
        for actor in self._actors.values():
            self.ray.kill(actor)
        if self._ours:
            self.ray.shutdown()

    def name(self, slot: int) -> str:
        """Such as `worker 1 (ray, cpu)`."""
        return f"worker {slot} (ray, {self.device})"

    def start(self, slot: int) -> None:
        """Ask the cluster for an actor."""
        actor = self._class.options(**self._needs).remote(self._job, self.device)
        self._actors[slot] = actor
        self._pending[actor.begin.remote()] = (slot, "start")

    def give(self, slot: int, task: Any, upcoming: Any) -> None:
        """Hand a task over."""
        self._pending[self._actors[slot].do.remote(task, upcoming)] = (slot, "task")

    def wait(self) -> Sequence[Event]:
        """Block until an actor is done with something, or lost."""
        if self._remarks:
            said, self._remarks = self._remarks, []
            return said
        finished: list[Any] = []
        while not finished:
            finished, _ = self.ray.wait(list(self._pending), num_returns=1, timeout=PATIENCE)
            if not finished and all(what == "start" for _, what in self._pending.values()):
                asked = "a GPU" if self._needs["num_gpus"] else "a CPU"
                return [Event(0, "said", f"the Ray cluster has started no worker yet; each asks for {asked}")]
        slot, _ = self._pending.pop(finished[0])
        try:
            kind, what, said = self.ray.get(finished[0])
        except self.ray.exceptions.RayError as error:
            self._actors.pop(slot, None)
            return [Event(slot, "lost", f"was lost ({type(error).__name__})")]
        events = [Event(slot, "said", text) for text in said]
        if kind in ("refused", "hopeless"):
            return [*events, Event(slot, "failed", what, error=what)]
        if kind == "poisoned":
            self.ray.kill(self._actors.pop(slot))
            return [
                *events,
                Event(slot, "failed", what, final=True),
                Event(slot, "lost", "cannot use its device any more"),
            ]
        return [*events, Event(slot, kind, what)]


class Holder:
    """The actor: a `vtbench.worker.Workbench`, and answers that are always (kind, what, remarks)."""

    def __init__(self, job: Any, device: str) -> None:
        self.job, self.device = job, device
        self.said: list[str] = []

    def begin(self) -> tuple[str, Any, list[str]]:
        """Load the model and the networks' places."""
        from vtbench.worker import Workbench, plainly

        try:
            self.bench = Workbench(self.job, self.device, self.said.append)
        except Exception as error:  # noqa: BLE001 - the process that asked raises it
            return "refused", plainly(error), []
        return "ready", None, self._remarks()

    def do(self, task: Any, upcoming: Any) -> tuple[str, Any, list[str]]:
        """One task."""
        from vtbench.memory import poisoned
        from vtbench.worker import hopeless, plainly

        try:
            return "done", self.bench.do(task, upcoming), self._remarks()
        except Exception as error:  # noqa: BLE001 - the crew decides whether another worker tries
            kind = "poisoned" if poisoned(error) else "hopeless" if hopeless(error) else "failed"
            return kind, plainly(error), self._remarks()

    def _remarks(self) -> list[str]:
        said, self.said = self.said, []
        return said
