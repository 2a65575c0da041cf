"""What is printed: names and texts of others reach the terminal as text, never as commands to it.

Everything that is printed goes through :func:`say` or a :func:`console`; a test finds what does not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters besides tab and newline, and those that turn the direction of reading."""


def visible(text: object) -> str:
    r"""A text without characters that a terminal acts on: escape is shown as ``\x1b``."""
    return _COMMANDS.sub(lambda match: ascii(match[0])[1:-1], str(text))


def byte_size(number: float) -> str:
    """Bytes in a unit that leaves at most three digits before the point: ``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def say(*texts: object, end: str = "\n", error: bool = False) -> None:
    """Print texts, as :func:`print` does, made :func:`visible`, and at once.

    Args:
        texts: with a space between them.
        end: what comes last.
        error: on standard error instead of standard output.
    """
    print(*map(visible, texts), end=end, file=sys.stderr if error else sys.stdout, flush=True)


def console(**settings: Any) -> Console:
    """A console of rich's, whose text is :func:`visible`; its colours and its cursor are rich's own.

    Args:
        settings: of ``rich.console.Console``.
    """
    return _console_class()(**settings)


def in_notebook() -> bool:
    """Whether output goes to the cell of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def notebook_text() -> Callable[[str], None]:
    """A text in the cell that is running, which each call writes over."""
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": visible(text)}, raw=True)


@cache
def _console_class() -> type[Console]:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Visible(Console):
        """A console that changes what it is given to print, and not what it adds."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            """Segments of text, styled, and of commands of rich's own."""
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(visible(segment.text), segment.style)

    return Visible
