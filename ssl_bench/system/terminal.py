"""What reaches the terminal: text that is not ours made harmless, and streams whose reader may go away."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any

from ssl_bench.errors import Notice

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 120  # columns where the output is no terminal
PART_OF_A_TRACEBACK = 5_000  # characters


def harmless(text: str, keep: str = "\n\t") -> str:
    """``text`` with what a terminal could obey (escape and control characters, direction marks) written out, but for
    line ends and tabs.

    >>> harmless("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def say(text: str) -> None:
    """Print a line that holds names which are not ours."""
    print(harmless(text))


def escape(text: str) -> str:
    """Text that is not ours, for a console that reads markup: its brackets are no styles, and nothing in it is
    obeyed."""
    from rich.markup import escape as without_markup

    return without_markup(harmless(text))


def traceback_of(error: BaseException) -> str:
    """A traceback as Python prints it, cut in the middle where it is endless, and always writable as UTF-8."""
    text = "".join(traceback.format_exception(error)).rstrip()
    if len(text) > 4 * PART_OF_A_TRACEBACK:
        text = f"{text[: 2 * PART_OF_A_TRACEBACK]}\n... ({len(text):,} characters) ...\n{text[-PART_OF_A_TRACEBACK:]}"
    return text.encode("utf-8", "backslashreplace").decode()


def console() -> Console:
    """A console that prints what plugins, file names and matrices bring along, and obeys none of it."""
    from rich.console import Console
    from rich.segment import Segment

    class Harmless(Console):
        """The net below ``escape``: whatever is printed passes here. Colours and cursor moves of rich's own are not
        text, and stay."""

        # here already, so that columns are as wide as what they show
        def render_str(self, text: str, **settings: Any) -> Any:
            return super().render_str(harmless(text), **settings)

        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(harmless(segment.text), segment.style)

    return Harmless(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


class _Patient:
    """A stream whose reader may go away (``ssl-bench list tasks | head -1``): what nobody reads any more is dropped,
    and the work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def guard_streams() -> None:
    """Let neither a closed pipe nor a character that the output cannot show end the process."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this; a file that is opened must not get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        stream = getattr(sys, name)
        if not isinstance(stream, _Patient):
            if hasattr(stream, "reconfigure"):
                # names of files that are not UTF-8 hold what no encoding has
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Patient(stream))


def tell_notices() -> None:
    """From now on a warning of the kind ``Notice`` is a line of its own on stderr, every time; other warnings are as
    Python has them."""
    plain = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return (
            f"note: {harmless(str(message))}\n"
            if issubclass(category, Notice)
            else plain(message, category, filename, lineno, line)
        )

    warnings.formatwarning = formatted
    warnings.simplefilter("always", Notice)
