"""The line of a running search: rendered for a width, and redrawn in place by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from shutil import get_terminal_size
from types import TracebackType
from typing import TextIO

from autobatch.progress.ticker import Ticker
from autobatch.progress.tracker import CHECK, START, THROUGHPUT, Progress
from autobatch.records.escaping import printable
from autobatch.reports.text.lines import shorten

_REDRAW_SECONDS = 0.2
_FRAMES, _PLAIN_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
# Of a bar: what has passed, its tip, and the rest.
_BAR, _PLAIN_BAR = ("━", "╸", "─"), ("=", ">", " ")
_BAR_CELLS = 18
_PHASES = (START, THROUGHPUT, CHECK)


def render(progress: Progress, width: int, *, frame: int = 0, plain: bool = False) -> str:
    """Render phase, bar, last event and time in less than `width` cells. `plain`: in ASCII alone."""
    frames = _PLAIN_FRAMES if plain else _FRAMES
    step = frames[frame % len(frames)]
    if progress.phase:
        step += f" {_PHASES.index(progress.phase) + 1}/{len(_PHASES)} {progress.phase}"
    bar, clock = _bar(progress, plain=plain), _clock(progress)
    message = printable(progress.message)
    room = width - 1 - len(step) - len(clock) - 4
    # On a narrow terminal the bar goes first: the clock says the same.
    if room >= _BAR_CELLS + len(message) + 2 and bar:
        message = f"{bar}  {message}"
    return shorten(f"{step}  {shorten(message, max(room, 1))}  {clock}", width - 1)


def _bar(progress: Progress, *, plain: bool) -> str:
    if progress.left_seconds is None:
        return ""
    full, tip, rest = _PLAIN_BAR if plain else _BAR
    whole = progress.elapsed_seconds + progress.left_seconds
    count = min(_BAR_CELLS - 1, int(_BAR_CELLS * progress.elapsed_seconds / whole)) if whole else 0
    return full * count + tip + rest * (_BAR_CELLS - count - 1)


def _clock(progress: Progress) -> str:
    elapsed = _minutes(progress.elapsed_seconds)
    if progress.left_seconds is None:
        return elapsed
    return f"{elapsed}, at most {_minutes(progress.left_seconds)} left"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class LiveLine:
    """The last line of a terminal, redrawn until the `with` block ends, and erased then.

    A stream that can't be written to (its reader is gone) costs the line, never the answer.
    """

    def __init__(self, stream: TextIO, progress: Callable[[], Progress]) -> None:
        self._stream = stream
        self._progress = progress
        self._plain = not _encodes(stream, _FRAMES + "".join(_BAR))
        self._drawn = False
        self._frame = 0
        # Lines of the worker arrive on another thread, and the clock ticks on a third.
        self._lock = threading.Lock()
        self._ticker = Ticker(self._tick, _REDRAW_SECONDS)

    def __enter__(self) -> LiveLine:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ticker.end()
        with self._lock, suppress(OSError, ValueError):
            self._erase()
            self._stream.flush()

    def print_above(self, line: str) -> None:
        """Print a line that stays, above the live line."""
        with self._lock, suppress(OSError, ValueError):
            self._erase()
            print(line, file=self._stream)
            self._draw()

    def _tick(self) -> None:
        with self._lock, suppress(OSError, ValueError):
            self._erase()
            self._draw()
            self._frame += 1

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._drawn = False

    def _draw(self) -> None:
        if not self._ticker.ended:
            columns = get_terminal_size().columns
            self._stream.write(render(self._progress(), columns, frame=self._frame, plain=self._plain))
            self._drawn = True
        self._stream.flush()


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
