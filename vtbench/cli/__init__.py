"""The command line: parses, prints, picks the exit code. Nothing heavy is imported here."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from functools import cache
from types import FrameType

import typer

from vtbench.console import printable
from vtbench.errors import VtbenchError

app = typer.Typer(
    name="vtbench",
    help="What a visual tokenizer or an image generator is worth: every number names the protocol that made it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

LESS = "Everything measured before is kept: ask for less at a time (--batch-size, --resolution, --loaders)"

# module -> (attribute, how it is mounted). A `Typer` becomes a group, a function a command.
COMMANDS = {
    "reconstruct": "vtbench.cli.reconstruct:reconstruct",
    "generate": "vtbench.cli.generate:generate",
    "models": "vtbench.cli.models:app",
    "tokens": "vtbench.cli.tokens:tokens",
    "score": "vtbench.cli.score:score",
    "explain": "vtbench.cli.explain:explain",
    "audit": "vtbench.cli.audit:audit",
    "suites": "vtbench.cli.suites:app",
    "metrics": "vtbench.cli.metrics:app",
    "weights": "vtbench.cli.weights:app",
    "doctor": "vtbench.cli.doctor:doctor",
    "results": "vtbench.cli.results:app",
    "compare": "vtbench.cli.compare:compare",
    "check": "vtbench.cli.check:check",
    "reproduce": "vtbench.cli.reproduce:reproduce",
    "table": "vtbench.cli.table:table",
    "report": "vtbench.cli.report:report",
    "leaderboard": "vtbench.cli.leaderboard:leaderboard",
    "watch": "vtbench.cli.watch:watch",
}


@cache
def _mount() -> None:
    for name, target in COMMANDS.items():
        module, _, attribute = target.partition(":")
        thing = getattr(importlib.import_module(module), attribute)
        if isinstance(thing, typer.Typer):
            app.add_typer(thing, name=name)
        else:
            app.command(name)(thing)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from vtbench._version import __version__

        typer.echo(__version__)
        raise typer.Exit


def _stop(number: int, frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)


class Interrupted(VtbenchError):
    """SIGINT or SIGTERM: everything measured is kept."""

    code = 130

    def __init__(self, name: str) -> None:
        super().__init__(f"stopped by {name}", "Everything measured is kept: the same command goes on from there")


def main() -> None:
    """The entry point `vtbench`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "160")  # a file or a pipe has no width of its own
    try:
        _mount()
        app()
    except VtbenchError as error:
        if os.environ.get("VTBENCH_DEBUG"):
            raise
        print(printable(f"vtbench: {' '.join(str(error).split())}"), file=sys.stderr)
        sys.exit(error.code)
    except (MemoryError, RuntimeError) as error:
        from vtbench.memory import full

        if os.environ.get("VTBENCH_DEBUG") or not full(error):
            raise
        said = str(error).split(". ")[0].splitlines()
        print(printable(f"vtbench: memory ran out{f' ({said[0]})' if said else ''}. {LESS}"), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if os.environ.get("VTBENCH_DEBUG") or error.errno is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        no_room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = ": free the space or name another folder with --out, and run it again" if no_room else ""
        print(
            printable(f"vtbench: {error.strerror}{where}. Everything measured before is kept{way_out}"), file=sys.stderr
        )
        sys.exit(1)
