"""No test depends on the shell that starts it: width, locale, time zone, colours, signals, home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HOSTILE = {
    "COLUMNS": "41",
    "LINES": "7",
    "LC_ALL": "C",
    "TZ": "Pacific/Kiritimati",
    "FORCE_COLOR": "1",
    "TERM": "dumb",
    "HOME": "/nonexistent",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "always",
    "MAKEFLAGS": "-j2",
}

# As `nohup` and a background job do.
IGNORE_SIGNALS = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.executable, sys.argv[1:])
"""

# A child's view: what its text depends on, and whether Ctrl-C reaches it.
SEEN = """
import locale, os, shutil, signal, time
print(shutil.get_terminal_size().columns, locale.getpreferredencoding(False).lower(), time.tzname[0])
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, os.access(os.environ["HOME"], os.W_OK))
print({"FORCE_COLOR", "MAKEFLAGS", "PYTHONUNBUFFERED"} & set(os.environ))
"""


def test_a_child_sees_the_same_environment_everywhere() -> None:
    ended = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["80", "utf-8", "UTC", "True", "True", "set()"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_tests_of_texts_pass_in_a_hostile_shell() -> None:
    tests = ("tests/golden", "tests/reports", "tests/records", "tests/cli", "tests/test_anywhere.py")
    pytest_command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    ended = subprocess.run(
        [sys.executable, "-c", IGNORE_SIGNALS, *pytest_command],
        cwd=ROOT,
        env={**os.environ, **HOSTILE},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-5000:]
