"""Runs a test's body in a process of its own: memory limits and devices, once set, stay with a process."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

# A fork server imports torch once and gives each test a fresh copy of a process that has it: importing
# it anew would take most of the time of these tests. Where there is none (Windows), they take longer.
# An optimizer imports torch._dynamo, which takes as long again.
_METHODS = multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")

TIMEOUT_SECONDS = 200.0


def in_child(body: Callable[..., None], *arguments: object) -> None:
    """Calls `body`, a function of a test module, in a fresh process.

    It fails here if it failed there, with the traceback from there; `pytest.skip` in it skips.
    """
    _CONTEXT.set_forkserver_preload(["torch", "torch._dynamo"])
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(sender, body, arguments))
    process.start()
    sender.close()
    verdict, detail = _received(receiver)
    if verdict == "hung":
        process.kill()
    process.join()
    if verdict == "skipped":
        pytest.skip(detail)
    if verdict != "passed":
        pytest.fail(f"in a process of its own (exit status {process.exitcode}): {detail}", pytrace=False)
    process.close()


def _received(receiver: Connection) -> tuple[str, str]:
    if not receiver.poll(TIMEOUT_SECONDS):
        return "hung", f"no answer in {TIMEOUT_SECONDS} seconds"
    try:
        verdict, detail = receiver.recv()
    except EOFError:
        return "failed", "it died without a word"
    return verdict, detail


def _run(sender: Connection, body: Callable[..., None], arguments: tuple[object, ...]) -> None:
    try:
        body(*arguments)
    except pytest.skip.Exception as skipped:
        sender.send(("skipped", str(skipped)))
    except BaseException:
        sender.send(("failed", traceback.format_exc()))
    else:
        sender.send(("passed", ""))
