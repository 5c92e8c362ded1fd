"""Progress is shown where it can be: a live line, a line for each event, a function, or nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from autobatch.progress import notebook
from autobatch.progress.display import AUTO, Display, display_for
from autobatch.progress.tracker import Progress
from autobatch.records.errors import UsageError
from tests.progress.test_live_line import Screen
from tests.progress.test_tracker import OPENED, PASSED


class Terminal(Screen):
    def isatty(self) -> bool:
        return True


def searched(display: Display) -> None:
    """A short search."""
    with display:
        display.opened(OPENED)
        display.trying(32)
        display.print_line("of the user's code")
        display.tried(PASSED)
        display.tried(PASSED)
        display.checking("measuring the gradient noise")


def test_a_terminal_keeps_the_lines_of_the_user_alone() -> None:
    screen = Terminal()
    searched(Display(screen, budget_seconds=60.0))
    assert screen.shown() == "of the user's code\n"


def test_a_file_has_a_line_for_each_event() -> None:
    stream = io.StringIO()
    searched(Display(stream))
    assert stream.getvalue().splitlines() == [
        "[  0 s] the worker is ready on cpu",
        "of the user's code",
        "[  0 s] batch size 32: 3,200 samples/s",
        "[  0 s] measuring the gradient noise",
    ]


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_quiet_leaves_the_lines_of_the_user_alone(stream: io.StringIO) -> None:
    searched(Display(stream, quiet=True))
    assert stream.getvalue() == "of the user's code\n"


def test_a_hostile_line_is_harmless() -> None:
    stream = io.StringIO()
    with Display(stream, colour=True) as display:
        display.print_line("\x1b[2Jred\x1b[31m")
        display.checking("\x1b[2J")
    assert "\x1b[2J" not in stream.getvalue()


@pytest.mark.parametrize(
    ("asked", "is_terminal", "lines"),
    [
        (AUTO, False, ["of the user's code"]),
        (True, False, 4),
        (False, False, ["of the user's code"]),
        (False, True, ["of the user's code"]),
        (AUTO, True, ["of the user's code"]),
    ],
)
def test_the_argument_of_find(
    monkeypatch: pytest.MonkeyPatch, asked: bool | str, is_terminal: bool, lines: Any
) -> None:
    stream = Terminal() if is_terminal else Screen()
    monkeypatch.setattr("sys.stderr", stream)
    searched(display_for(asked, 60.0))
    shown = stream.shown().splitlines()
    assert shown == lines if isinstance(lines, list) else len(shown) == lines
    assert ("2/3 throughput" in stream.getvalue()) is (is_terminal and asked == AUTO)


def test_a_function_hears_of_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Progress] = []
    searched(display_for(heard.append, 60.0))
    assert [progress.message for progress in heard][1:] == [
        "batch size 32: 3,200 samples/s",
        "measuring the gradient noise",
    ]
    assert all(progress.left_seconds is not None for progress in heard)
    assert capsys.readouterr().err == "of the user's code\n"


@pytest.mark.parametrize("asked", ["yes", 3, None])
def test_anything_else_is_an_error(asked: Any) -> None:
    with pytest.raises(UsageError) as raised:
        display_for(asked, 60.0)
    assert raised.value.code == "bad_progress"


def test_no_console_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    searched(display_for(AUTO, 60.0))


NOTEBOOK_CELL = """
from autobatch.progress.display import AUTO, display_for
from tests.progress.test_display import searched
display = display_for(AUTO, 60.0)
searched(display)
"""


def test_a_shell_without_a_kernel_is_no_notebook() -> None:
    assert not notebook.is_notebook()


def test_a_notebook_has_one_output_that_ends_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    from ipykernel.inprocess import InProcessKernelManager

    manager = InProcessKernelManager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.execute(NOTEBOOK_CELL)
    outputs: list[tuple[str, str]] = []
    collect(client.get_iopub_msg, outputs)
    kinds = [kind for kind, _ in outputs]
    assert kinds.count("display_data") == 1
    assert "1/3 start" in outputs[kinds.index("display_data")][1]
    assert outputs[-1] == ("update_display_data", "")


def collect(receive: Callable[..., dict[str, Any]], outputs: list[tuple[str, str]]) -> None:
    """The outputs of a cell, with their texts, until the kernel is idle."""
    while True:
        message = receive(timeout=60)
        content = message["content"]
        if message["msg_type"] in ("display_data", "update_display_data"):
            outputs.append((message["msg_type"], content["data"]["text/plain"]))
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return
