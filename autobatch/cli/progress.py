"""Rows on standard error as they are measured, with one live line below them on a terminal."""

from __future__ import annotations

import threading
from contextlib import suppress
from shutil import get_terminal_size
from types import TracebackType
from typing import TextIO

from autobatch.engines.base import Opened
from autobatch.measurement.climb import Observer
from autobatch.records.escaping import printable_output
from autobatch.records.trial import Trial
from autobatch.records.workload import Workload
from autobatch.reports.text import terminal


class Progress(Observer):
    """A printer of the search's progress. With `quiet`, it prints only the lines of the worker itself.

    A stream that can't be written to (its reader is gone, the disk is full) costs rows, never the answer.

    `erase`: remove the rows at the end, since the report repeats them. `colour`: keep the colours of the
    worker's lines.
    """

    def __init__(self, stream: TextIO, *, quiet: bool, erase: bool = False, colour: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._erase = erase
        self._colour = colour
        self._lines = 0
        self._live = stream.isatty() and not quiet
        self._workload: Workload | None = None
        self._below = ""
        # The worker's output arrives on another thread.
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        self._show("starting the worker")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._show("")
        if self._erase and self._live and error is None and self._lines < get_terminal_size().lines:
            with suppress(OSError):
                self._stream.write(f"\x1b[{self._lines}A\x1b[J")
                self._stream.flush()

    def opened(self, opened: Opened) -> None:
        self._workload = opened.workload
        self._say(
            terminal.header(opened.device, opened.workload, ranks=opened.world_size),
            "",
            terminal.column_titles(opened.workload),
        )

    def trying(self, batch_size: int) -> None:
        self._show(f"trying batch size {batch_size:,}")

    def tried(self, trial: Trial) -> None:
        if self._workload is not None:
            self._say(terminal.row(trial, self._workload))

    def checking(self, what: str) -> None:
        self._show(what)

    def print_line(self, line: str) -> None:
        """Print a line of the user's code, made harmless for a terminal."""
        # The line stays on the screen, and so do the rows above it.
        self._erase = False
        self._write(printable_output(line, colour=self._colour))

    def _say(self, *blocks: str) -> None:
        if not self._quiet:
            self._write(*blocks)

    def _write(self, *blocks: str) -> None:
        with self._lock, suppress(OSError):
            self._clear()
            for block in blocks:
                print(block, file=self._stream)
                self._lines += block.count("\n") + 1
            self._draw()

    def _show(self, below: str) -> None:
        with self._lock, suppress(OSError):
            self._clear()
            self._below = below
            self._draw()

    def _clear(self) -> None:
        if self._live and self._below:
            self._stream.write("\r\x1b[K")

    def _draw(self) -> None:
        if self._live and self._below:
            self._stream.write(f"  {self._below} ...")
        self._stream.flush()
