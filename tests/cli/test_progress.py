"""The live line of the real command on a terminal: it is gone at the end, and after Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.console import MODEL, autobatch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

PROBE = (autobatch(), "probe", "model.py", "--device", "cpu", "--no-check")
_ERASED = re.compile(r"[^\n\r]*\r\x1b\[K")


def on_a_terminal(folder: Path, *options: str, interrupt_at: str = "") -> tuple[int, str, str]:
    """(status, everything that was drawn, the lines that stay) of a probe on a pseudo-terminal."""
    import pty

    (folder / "model.py").write_text(MODEL)
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [*PROBE, *options],
        cwd=folder,
        env={
            **os.environ,
            "TERM": "xterm",
            "COLUMNS": "100",
            "LINES": "40",
            "NO_COLOR": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    deadline = time.monotonic() + 200
    try:
        while time.monotonic() < deadline and (part := os.read(ours, 4096)):
            drawn += part
            if interrupt_at and interrupt_at in drawn.decode(errors="replace"):
                interrupt_at = ""
                started.send_signal(signal.SIGINT)
    except OSError:  # the other end was closed
        pass
    finally:
        os.close(ours)
        status = started.wait(60)
    text = drawn.decode(errors="replace").replace("\r\n", "\n")
    return status, text, _ERASED.sub("", text)


def test_nothing_but_the_report_stays(tmp_path: Path) -> None:
    status, drawn, stays = on_a_terminal(tmp_path, "--max-batch", "2")
    assert status == 0, drawn
    assert "1/3 start" in drawn
    assert "2/3 throughput" in drawn
    assert "at most 0:" in drawn
    assert "/3 " not in stays
    assert stays.count("Took ") == 1
    assert stays.startswith("autobatch ")


def test_ctrl_c_shows_the_sizes_so_far_once(tmp_path: Path) -> None:
    status, drawn, stays = on_a_terminal(
        tmp_path, "--budget", "60s", "--ceiling", interrupt_at="batch size 64"
    )
    assert status == 130, drawn
    assert "/3 " not in stays
    assert stays.count("error: interrupted") == 1
    rows = re.findall(r"^ +32 ", stays, re.MULTILINE)
    assert len(rows) == 1
