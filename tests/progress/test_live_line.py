"""The live line fits every width, and leaves nothing but the lines above it."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.progress import live_line
from autobatch.progress.live_line import LiveLine, render
from autobatch.progress.tracker import CHECK, START, THROUGHPUT, Progress
from autobatch.records.escaping import printable
from autobatch.reports.text.lines import cells

PROGRESS = Progress(
    phase=THROUGHPUT,
    message="batch size 128: 3,306 samples/s",
    elapsed_seconds=15.0,
    left_seconds=45.0,
    batch_size=128,
    samples_per_second=3306.0,
)


def test_phase_bar_event_and_time() -> None:
    line = "⠙ 2/3 throughput  ━━━━╸─────────────  batch size 128: 3,306 samples/s  0:15, at most 0:45 left"
    assert render(PROGRESS, 120, frame=1) == line
    assert render(PROGRESS, 120, plain=True).startswith(
        "| 2/3 throughput  ====>               batch size 128"
    )


def test_without_a_budget_there_is_no_bar() -> None:
    progress = Progress(phase=CHECK, message="training", elapsed_seconds=75.0, left_seconds=None)
    assert render(progress, 80) == "⠋ 3/3 check  training  1:15"


def test_work_that_is_no_search_has_no_phase() -> None:
    progress = Progress(phase="", message="tracing", elapsed_seconds=3.0, left_seconds=None)
    assert render(progress, 80) == "⠋  tracing  0:03"


def test_a_narrow_terminal_loses_the_bar_first() -> None:
    assert "━" not in render(PROGRESS, 80)
    assert "3,306 samples/s" in render(PROGRESS, 80)
    assert "at most 0:45 left" in render(PROGRESS, 60)


@given(
    st.builds(
        Progress,
        phase=st.sampled_from([START, THROUGHPUT, CHECK, ""]),
        message=st.text(max_size=200),
        elapsed_seconds=st.floats(0, 1e6),
        left_seconds=st.none() | st.floats(0, 1e6),
    ),
    st.integers(8, 200),
)
def test_it_never_wraps_and_never_steers_the_terminal(progress: Progress, width: int) -> None:
    line = render(progress, width)
    assert cells(line) < width
    assert printable(line) == line


class Screen(io.StringIO):
    """A terminal that knows its encoding, and keeps what it was sent."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def shown(self) -> str:
        """What stays on the screen: each erasure takes the line before it away."""
        text = self.getvalue()
        while (shorter := re.sub(r"[^\n\r]*\r\x1b\[K", "", text)) != text:
            text = shorter
        return text


def test_lines_stay_above_it_and_the_end_erases_it() -> None:
    screen = Screen()
    with LiveLine(screen, lambda: PROGRESS) as line:
        line.print_above("of the user's code")
        assert "samples/s" in screen.getvalue()
    assert screen.shown() == "of the user's code\n"


def test_ctrl_c_erases_it_too() -> None:
    screen = Screen()
    line = LiveLine(screen, lambda: PROGRESS)

    def interrupted() -> None:
        with line:
            line.print_above("before")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.shown() == "before\n"


def test_it_is_redrawn_without_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_line, "_REDRAW_SECONDS", 0.001)
    screen = Screen()
    with LiveLine(screen, lambda: PROGRESS):
        while screen.getvalue().count("2/3 throughput") < 3:
            pass
    assert screen.shown() == ""


def test_a_terminal_without_unicode_gets_ascii() -> None:
    screen = Screen("ascii")
    with LiveLine(screen, lambda: PROGRESS) as line:
        line.print_above("")
    assert screen.getvalue().isascii()


def test_a_stream_that_is_gone_costs_the_line_alone() -> None:
    screen = Screen()
    with LiveLine(screen, lambda: PROGRESS) as line:
        screen.close()
        line.print_above("lost")
