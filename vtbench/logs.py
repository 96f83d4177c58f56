"""Results to experiment trackers: TensorBoard, Weights & Biases, trackio. Each is imported only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vtbench.errors import MissingPackage, UnknownName, UsageError

if TYPE_CHECKING:
    from vtbench.result import Result

Sink = Callable[[Mapping[str, float], int], None]
"""Takes numbers by name and a step."""


def _tensorboard(where: str) -> Sink:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingPackage("tensorboard", "log", "--log tensorboard") from error
    writer = SummaryWriter(where or "runs")

    def write(numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _wandb(where: str) -> Sink:
    try:
        import wandb
    except ImportError as error:
        raise MissingPackage("wandb", "log", "--log wandb") from error
    if wandb.run is None:  # inside a training script its own run goes on
        wandb.init(project=where or "vtbench")
    # Checkpoints may be measured out of order: a step of our own, not wandb's, which only grows.
    wandb.define_metric("vtbench/step")
    wandb.define_metric("vtbench/*", step_metric="vtbench/step")

    def write(numbers: Mapping[str, float], step: int) -> None:
        wandb.log({f"vtbench/{name}": value for name, value in numbers.items()} | {"vtbench/step": step})

    return write


def _trackio(where: str) -> Sink:
    try:
        import trackio
    except ImportError as error:
        raise MissingPackage("trackio", "log", "--log trackio") from error
    trackio.init(project=where or "vtbench")

    def write(numbers: Mapping[str, float], step: int) -> None:
        trackio.log({**numbers, "step": step})

    return write


SINKS: dict[str, Callable[[str], Sink]] = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}


def open_sink(spec: str) -> Sink:
    """A sink by name: ``tensorboard:DIR``, ``wandb:PROJECT``, ``trackio:PROJECT``.

    Raises `UnknownName`, `UsageError`, or `MissingPackage` with the install command."""
    name, colon, where = spec.partition(":")
    if name not in SINKS:
        raise UnknownName("tracker", name, SINKS)
    if colon and not where:
        raise UsageError(f"'{spec}' names nothing after the colon", f"{name}, or {name}:NAME")
    return SINKS[name](where)


def log(result: Result, spec: str | Sink, *, step: int, prefix: str = "") -> None:
    """Log a result's recommended numbers: ``log(ev(model, step=step), "tensorboard:runs", step=step)``. Of a process group, rank 0 alone has any to log; on the
    others nothing is opened."""
    if not result.records:
        return
    sink = open_sink(spec) if isinstance(spec, str) else spec
    sink(result.flat(prefix), step)
