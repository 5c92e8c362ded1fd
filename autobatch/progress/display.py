"""Chooses how the progress of a search is shown, and shows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TextIO

from autobatch.progress.live_line import LiveLine
from autobatch.progress.notebook import NotebookRegion, is_notebook
from autobatch.progress.tracker import Progress, Tracker
from autobatch.records.errors import UsageError
from autobatch.records.escaping import printable, printable_output

# The argument `progress` of `find`.
Asked = bool | str | Callable[[Progress], None]
AUTO = "auto"


class Display(Tracker):
    """Shows a search on a stream: one live line on a terminal, a line for each event elsewhere.

    `quiet`: show nothing but the lines that the user's code prints. `colour`: keep the colours of these.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        budget_seconds: float | None = None,
        quiet: bool = False,
        notebook: bool = False,
        colour: bool = False,
        listener: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        super().__init__(budget_seconds, self._hear)
        self._stream = stream
        self._colour = colour
        self._heard_by = listener
        self._line = LiveLine(stream, self.progress) if stream.isatty() and not quiet else None
        self._region = NotebookRegion(self.progress) if notebook and not quiet else None
        self._prints_events = not quiet and self._line is None and self._region is None
        self._open = ExitStack()

    def __enter__(self) -> Display:
        for region in (self._line, self._region):
            if region is not None:
                self._open.enter_context(region)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._open.close()

    def print_line(self, line: str) -> None:
        """Print a line of the user's code, made harmless for a terminal."""
        self._print(printable_output(line, colour=self._colour))

    def _hear(self, progress: Progress) -> None:
        if self._prints_events:
            self._print(f"[{progress.elapsed_seconds:3.0f} s] {printable(progress.message)}")
        self._heard_by(progress)

    def _print(self, line: str) -> None:
        if self._line is not None:
            self._line.print_above(line)
            return
        with suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)


def display_for(asked: Asked, budget_seconds: float) -> Display:
    """Return the display that `find(progress=...)` asks for, on standard error. Raises UsageError.

    `auto`: on a terminal and in a notebook. True: everywhere. False: nowhere. A function hears of each event.
    """
    # Without a console, as under pythonw, there is no stream.
    stream = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if callable(asked):
        return Display(stream, budget_seconds=budget_seconds, quiet=True, listener=asked)
    if asked not in (True, False, AUTO):
        raise UsageError(
            f"`progress` can't be {printable(repr(asked))}",
            code="bad_progress",
            hint='give True, False, "auto", or a function of a Progress',
        )
    notebook = is_notebook()
    quiet = asked is False or (asked == AUTO and not notebook and not stream.isatty())
    colour = stream.isatty()
    return Display(stream, budget_seconds=budget_seconds, quiet=quiet, notebook=notebook, colour=colour)
