"""Workers that die, hang and are interrupted for real: rows kept, the right words, nothing left behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

import autobatch
from autobatch import Limits
from autobatch.reports.text import terminal
from tests.faults.probing import WAIT_AT_8, Run, outcomes, run, wait_until, write_model

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

QUICK = ("--max-batch", "16", "--budget", "60s", "--no-check")


def test_a_size_that_kills_the_worker_is_a_crash_when_it_does_so_twice(tmp_path: Path) -> None:
    # Four ways to die: twice at 8, and twice at each of the sizes that the search then tries below it.
    # A size that dies once and then passes is good.
    write_model(
        tmp_path,
        """
if size == 2 and not (HERE / "once").exists():
    (HERE / "once").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if size >= 8:
    os.kill(os.getpid(), signal.SIGKILL)
if size == 7:
    ctypes.string_at(0)
if size == 5 and not (HERE / "done").exists():
    (HERE / "done").touch()
    os.abort()
if size == 5:
    os._exit(0)
""",
    )
    found = run(tmp_path, "probe", "model_file.py", *QUICK, "--json")

    assert found.process.returncode == 0, found.stderr
    document = found.document()
    twice = ["crashed", "crashed"]
    assert outcomes(document) == {1: ["ok"], 2: ["crashed", "ok"], 4: ["ok"], 8: twice, 7: twice, 5: twice}
    assert any("died once at batch size 2" in warning for warning in document["warnings"])
    crashes = [trial for trial in document["trials"] if trial["outcome"] == "crashed"]
    killed, segfault, aborted = "killed by SIGKILL", "killed by SIGSEGV", "killed by SIGABRT"
    ends = [killed, killed, killed, segfault, segfault, aborted, "the process ended with exit code 0"]
    assert all(trial["detail"].startswith(end) for trial, end in zip(crashes, ends, strict=True))
    assert all(trial["phase"] == "forward" for trial in crashes)
    assert document["batch_size"] in (1, 2, 4)
    assert document["ceiling"]["batch_size"] == 4
    assert document["ceiling"]["limited_by"] == "size_limit", "not memory: the process ended by itself"
    found.assert_nothing_left()


@pytest.mark.skipif(sys.platform != "linux", reason="sessions are forked on Linux only")
def test_a_worker_killed_with_its_session_is_replaced(tmp_path: Path) -> None:
    # The session's parent is the worker; the file lets it be killed only once.
    write_model(
        tmp_path,
        """
if size == 4 and not (HERE / "done").exists():
    (HERE / "done").touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)
""",
    )
    found = run(tmp_path, "probe", "model_file.py", *QUICK, "--json")

    assert found.process.returncode == 0, found.stderr
    assert outcomes(found.document())[4] == ["crashed", "ok"]
    found.assert_nothing_left()


def test_a_worker_that_always_dies_is_an_error_that_says_where(tmp_path: Path) -> None:
    write_model(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    found = run(tmp_path, "probe", "model_file.py", *QUICK, "--json")

    assert found.process.returncode == 1
    document = found.document()
    assert document["error"]["code"] == "worker_died"
    assert any("killed by SIGKILL" in fact for fact in document["error"]["facts"])
    assert any("forward phase" in fact for fact in document["error"]["facts"])
    assert outcomes(document) == {1: ["crashed", "crashed"]}
    found.assert_nothing_left()


def test_a_worker_that_dies_in_a_timing_round_says_so(tmp_path: Path) -> None:
    # The third step of the try and its evaluation are the last calls before the rounds begin.
    write_model(
        tmp_path,
        """
trouble.calls = getattr(trouble, "calls", 0) + 1
if trouble.calls > 5: os._exit(3)
""",
    )
    found = run(tmp_path, "probe", "model_file.py", *QUICK, "--json")

    assert found.process.returncode == 1
    document = found.document()
    assert document["error"]["code"] == "worker_died"
    assert any("exit code 3" in fact for fact in document["error"]["facts"])
    assert any("timing phase" in fact for fact in document["error"]["facts"])


def test_a_hang_ends_at_the_timeout_and_keeps_the_rows(tmp_path: Path) -> None:
    # PyDLL keeps the interpreter's lock, as a busy extension does: no thread of the session runs on.
    write_model(tmp_path, "if size >= 8: ctypes.PyDLL(None).sleep(1000)")
    found = run(tmp_path, "probe", "model_file.py", *QUICK, "--trial-timeout", "4s", "--json")

    assert found.process.returncode == 0, found.stderr
    document = found.document()
    assert outcomes(document) == {1: ["ok"], 2: ["ok"], 4: ["ok"], 8: ["timeout"]}
    assert (document["trials"][-1]["phase"], document["trials"][-1]["detail"]) == (
        "forward",
        "no end after 4 s",
    )
    assert document["ceiling"]["limited_by"] == "budget"
    found.assert_nothing_left()


@pytest.mark.parametrize(
    ("trouble", "detail"),
    [
        ("if size >= 4: raise ValueError('no more than 3')", "ValueError: no more than 3"),
        pytest.param("if size >= 4: sys.exit(3)", "SystemExit: 3", marks=pytest.mark.slow),
        pytest.param(
            "if size >= 4: import asyncio; raise asyncio.CancelledError",
            "CancelledError",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_error_at_larger_sizes_bounds_the_answer_and_is_shown(
    tmp_path: Path, trouble: str, detail: str
) -> None:
    write_model(tmp_path, trouble)
    found = run(tmp_path, "probe", "model_file.py", *QUICK, "--json")

    assert found.process.returncode == 0, found.stderr
    document = found.document()
    # An error of the step may be that of one size alone: the one above is tried before it is believed.
    assert outcomes(document) == {1: ["ok"], 2: ["ok"], 4: ["failed"], 5: ["failed"], 3: ["ok"]}
    failed = [trial for trial in document["trials"] if trial["outcome"] == "failed"]
    assert {(trial["phase"], trial["detail"]) for trial in failed} == {("forward", detail)}
    ceiling = document["ceiling"]
    assert (ceiling["batch_size"], ceiling["limited_by"], ceiling["detail"]) == (3, "size_limit", detail)
    assert f"batch sizes from 4 on can't be trained: {detail}" in document["warnings"]
    found.assert_nothing_left()


@pytest.mark.parametrize(
    ("trouble", "code", "fact"),
    [
        ("raise ValueError('no more than 0')", "step_fails", "ValueError: no more than 0"),
        pytest.param("sys.exit(3)", "target_exits", "exit status: 3", marks=pytest.mark.slow),
    ],
)
def test_an_error_at_every_size_is_shown_as_it_is(tmp_path: Path, trouble: str, code: str, fact: str) -> None:
    write_model(tmp_path, trouble)
    found = run(tmp_path, "probe", "model_file.py", *QUICK, "--json")

    assert found.process.returncode == 1
    document = found.document()
    assert document["error"]["code"] == code
    assert "batch size 1" in document["error"]["message"]
    assert fact in document["error"]["facts"]
    assert any(one.startswith("at model_file.py:") for one in document["error"]["facts"])
    assert set(outcomes(document)) == {1, 16}, "the smallest and the largest that is usual"
    found.assert_nothing_left()


def test_what_a_model_starts_and_prints_neither_blocks_nor_stays(tmp_path: Path) -> None:
    write_model(
        tmp_path,
        """
if size == 2 and not hasattr(trouble, "started"):
    trouble.started = True
    print("x" * 5_000_000)
    sys.stderr.write("no newline" * 100_000)
    subprocess.Popen(["sleep", "1000"])
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    threading.Thread(target=time.sleep, args=(1000,)).start()
if size == 4 and not (HERE / "done").exists():
    # A descendant whose parent is gone, with a session of its own, started by a session that dies.
    (HERE / "done").touch()
    subprocess.run("setsid sleep 1000 & setsid sleep 1000 &", shell=True)
    os.kill(os.getpid(), signal.SIGKILL)
if size == 8 and not hasattr(trouble, "loud"):
    trouble.loud = True
    print("\\x1b[31mred\\x00", flush=True)
""",
    )
    found = run(tmp_path, "probe", "model_file.py", *QUICK, "--json")

    assert found.process.returncode == 0, found.stderr[-2000:]
    document = found.document()
    assert outcomes(document) == {1: ["ok"], 2: ["ok"], 4: ["crashed", "ok"], 8: ["ok"], 16: ["ok"]}
    assert found.stderr.count("x") >= 5_000_000
    assert "\x1b" not in found.stderr
    assert "\x00" not in found.stderr
    found.assert_nothing_left()


def test_ctrl_c_in_the_middle_keeps_rows_and_the_saved_file(tmp_path: Path) -> None:
    write_model(tmp_path, WAIT_AT_8)
    started = Run(tmp_path, "probe", "model_file.py", "--save", "result.json")
    started.wait_for(tmp_path / "reached")
    started.interrupt()

    assert started.finish() == 130
    assert "error: interrupted" in started.stderr
    assert "Traceback" not in started.stderr
    started.assert_nothing_left()
    saved = autobatch.load(tmp_path / "result.json")
    assert [trial.batch_size for trial in saved.trials] == [1, 2, 4]
    assert started.stdout == terminal.render(saved) + "\n"
    assert any("interrupted" in warning for warning in saved.warnings)


def test_ctrl_c_more_than_once_is_as_good_as_once(tmp_path: Path) -> None:
    write_model(tmp_path, WAIT_AT_8)
    started = Run(tmp_path, "probe", "model_file.py", "--json", "--save", "result.json")
    started.wait_for(tmp_path / "reached")
    started.interrupt()
    while started.process.poll() is None:
        time.sleep(0.01)
        if started.process.poll() is None:
            started.interrupt()

    assert started.finish() == 130
    assert started.document()["error"]["code"] == "interrupted"
    assert "Traceback" not in started.stderr
    started.assert_nothing_left()


def test_ctrl_c_while_the_worker_starts(tmp_path: Path) -> None:
    write_model(tmp_path)
    started = Run(tmp_path, "probe", "model_file.py", "--json", "--save", "result.json")
    wait_until(lambda: len(started.left_running()) > 1, "a worker starts")
    started.interrupt()

    assert started.finish() == 130
    document = started.document()
    assert (document["error"]["code"], document["trials"]) == ("interrupted", [])
    assert "Traceback" not in started.stderr
    assert not (tmp_path / "result.json").exists()
    started.assert_nothing_left()


def test_ctrl_c_leaves_no_live_line_on_the_terminal(tmp_path: Path) -> None:
    write_model(tmp_path, WAIT_AT_8)
    master, slave = pty.openpty()
    drawn: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(master, drawn))
    reader.start()
    started = Run(tmp_path, "probe", "model_file.py", stderr=slave)
    os.close(slave)
    started.wait_for(tmp_path / "reached")
    wait_until(lambda: b"batch size 8" in b"".join(drawn), "the live line tells of batch size 8")
    started.interrupt()
    status = started.finish()
    reader.join()
    os.close(master)

    assert status == 130
    told = b"".join(drawn).decode()
    # Every live line is taken back before anything else is written, and the last line is ended.
    *live, rest = told.split("\r\x1b[K")
    assert live
    assert all(line.count(" left") == 1 and line.endswith(" left") for line in live)
    assert "left" not in rest
    assert "batch size" not in rest
    assert told.endswith("\n")
    assert "error: interrupted" in told.replace("\x1b[1m", "").replace("\x1b[31m", "").replace("\x1b[0m", "")


@pytest.mark.parametrize("by", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's death on Linux only")
def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path, by: signal.Signals) -> None:
    write_model(
        tmp_path,
        """
if size == 4:
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    (HERE / "reached").touch()
    ctypes.PyDLL(None).sleep(1000)
""",
    )
    started = Run(tmp_path, "probe", "model_file.py")
    started.wait_for(tmp_path / "reached")
    assert len(started.left_running()) >= 4
    os.kill(started.process.pid, by)

    assert started.finish() == -by
    wait_until(lambda: not started.left_running(), "the worker, its session and what that started end")
    assert not started.left_in_scratch()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's death on Linux only")
def test_nothing_outlives_a_parent_that_is_killed_while_the_worker_starts(tmp_path: Path) -> None:
    write_model(tmp_path)
    started = Run(tmp_path, "probe", "model_file.py")
    wait_until(lambda: len(started.left_running()) > 1, "a worker starts")
    os.kill(started.process.pid, signal.SIGKILL)

    assert started.finish() == -signal.SIGKILL
    wait_until(lambda: not started.left_running(), "the worker ends")
    # torch may have made the empty folder of its compiler by then, and nobody is left to remove it.
    assert not [path for path in started.scratch.rglob("*") if path.is_file()]


def test_find_leaves_no_descriptor_thread_or_process_in_the_caller() -> None:
    data = (torch.randn(64, 8), torch.randint(0, 4, (64,)))
    limits = Limits(max_batch=1, budget_seconds=60, check=False)

    def held() -> tuple[int, set[threading.Thread], list[psutil.Process]]:
        me = psutil.Process()
        return me.num_fds(), set(threading.enumerate()), me.children(recursive=True)

    # The first call may open what stays open on purpose (imported libraries).
    autobatch.find(nn.Linear(8, 4), data, limits=limits)
    before = held()
    autobatch.find(nn.Linear(8, 4), data, limits=limits, fresh=True)
    with pytest.raises(autobatch.AutobatchError):
        autobatch.find(nn.Linear(9, 4), data, limits=limits)
    assert held() == before


def _read_all(master: int, into: list[bytes]) -> None:
    while True:
        try:
            chunk = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            return
        if not chunk:
            return
        into.append(chunk)


def test_what_ends_leftovers_is_imported_before_there_are_any() -> None:
    """A SIGTERM in the middle of an import would find half a module, and leave everything running."""
    program = (
        "import sys, autobatch.worker.main as worker; before = set(sys.modules); "
        "worker._end_leftovers(); print(sorted(set(sys.modules) - before))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
