"""What reaches a terminal: names come from files, records and archives of strangers, and a terminal obeys control characters in them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 controls but for tab and line feed, DEL, the marks that turn the direction of writing, and halves of surrogate pairs.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with every control character written out as JSON would: ``\\u001b`` for an escape. Lines and tabs stay."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print on stdout (or stderr), controls written out."""
    import typer

    typer.echo(printable(text), err=err, nl=nl)


def wide(**how: Any) -> Console:
    """A `screen` for lists: into a pipe or a file every entry goes on one line, however long, so that it can be searched."""
    made = screen(**how)
    if not made.is_terminal:
        made.width = 240
    return made


def screen(**how: Any) -> Console:
    """A rich console that styles what it prints and writes out whatever controls the text itself has. how: of `rich.console.Console`."""
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
    from rich.segment import Segment

    class Cleaned:
        """A renderable whose text is printable."""

        def __init__(self, thing: ConsoleRenderable) -> None:
            self.thing = thing

        def __rich_console__(self, out: Console, options: ConsoleOptions) -> RenderResult:
            for segment in out.render(self.thing, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    class Clean(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Cleaned(thing) for thing in renderables]

    made = Console(**how)
    made.push_render_hook(Clean())
    return made
