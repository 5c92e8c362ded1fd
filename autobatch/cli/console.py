"""The command's standard streams, its files, and its end: answers, errors and the exit status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol, TextIO

from autobatch.cli import bug_report
from autobatch.engines.ranks import membership
from autobatch.records.errors import AutobatchError, SavedResultError, UsageError
from autobatch.records.escaping import printable
from autobatch.records.recommendation import Confidence, Recommendation
from autobatch.reports.html import document
from autobatch.reports.text import terminal
from autobatch.storage import codec, result_files

# The exit status of a command that Ctrl-C has ended.
INTERRUPTED = 130
# torchrun ends all ranks as soon as one has failed: the rank that reports the error needs time to do so.
_SILENT_SECONDS = 5.0
_WIDTH, _MAX_WIDTH = 80, 120


@dataclass(frozen=True, slots=True)
class Output:
    """The forms in which an answer is printed, and the files that it is written to."""

    as_json: bool = False
    quiet: bool = False
    save_to: str | None = None
    html_to: str | None = None
    verbose: bool = False

    def check_writable(self, source: str | None) -> None:
        """Raise an error for a file that can't be written, or that would replace `source` or another."""
        taken = {} if source is None else {os.path.realpath(source): f"`{printable(source)}`"}
        for option, path, kind in (
            ("--save", self.save_to, result_files.RESULT),
            ("--html", self.html_to, result_files.REPORT),
        ):
            if not path:
                continue
            place = os.path.realpath(path)
            if place in taken:
                raise UsageError(
                    f"`{option}` would write over {taken[place]}",
                    code="usage",
                    hint=f"choose another file: `{kind.option}`",
                )
            taken[place] = f"the file of `{option}`"
            result_files.check_writable(path, kind)


class ScriptReport(Protocol):
    """How to apply the answer to a training command: as lines for people, and as facts for programs."""

    @property
    def lines(self) -> tuple[str, ...]: ...
    @property
    def facts(self) -> dict[str, object]: ...


def deliver(answer: Recommendation, output: Output, script: ScriptReport | None = None) -> None:
    """Save the answer and print it; an answer that can't be saved is printed before the error."""
    try:
        _save(answer, output)
    except SavedResultError:
        # With --json the only object on standard output is the error's, which holds the trials.
        if not output.as_json:
            _print(answer, output, script)
        raise
    _print(answer, output, script)


def show_interrupted(answer: Recommendation | None, output: Output) -> None:
    """Print what was measured before Ctrl-C: as a report, or in the error object; and save it."""
    error = AutobatchError("interrupted", code="interrupted")
    if answer is not None:
        error.trials = answer.trials
        if not output.as_json and not output.quiet:
            _print(answer, output)
        _save(answer, output)
    _report(error, as_json=output.as_json)
    flush()


def ignore_interrupts() -> None:
    """Let no second Ctrl-C cut the final report short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def fail(error: AutobatchError, *, as_json: bool, status: int | None = None) -> NoReturn:
    """Report the error and exit with its status, or with another one."""
    _report(error, as_json=as_json)
    flush()
    if not _speaks():
        time.sleep(_SILENT_SECONDS)
    raise SystemExit(error.exit_status if status is None else status)


def print_out(rendered: str) -> None:
    """Print on standard output, in the rank that speaks for all."""
    if not _speaks():
        return
    encoding = sys.stdout.encoding or "utf-8"
    with _reported_writing():
        sys.stdout.write(rendered.encode(encoding, errors="replace").decode(encoding) + "\n")


def print_size(answer: Recommendation) -> None:
    """Print the batch size alone, and a line on standard error where the confidence in it is low."""
    print_out(str(answer.batch_size))
    decision = answer.decision
    if decision is None or decision.level is not Confidence.LOW or not _speaks():
        return
    line = f"confidence low ({decision.confidence:.0%}): {printable(answer.why)}"
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def print_laid_out(render: Callable[..., str], record: Any) -> None:
    """Print a record by its renderer, for the width and the colours of standard output."""
    print_out(render(record, width=_width(sys.stdout), colour=colour(sys.stdout)))


@contextmanager
def fallback_to(batch_size: int | None) -> Iterator[None]:
    """Print `batch_size` and exit with 0 where the block finds no answer. None lets every error pass.

    Errors of the call itself pass too, and Ctrl-C does.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if batch_size is None:
            raise
        _report(error if isinstance(error, AutobatchError) else bug_report.error_of(error), as_json=False)
        print_out(str(batch_size))
        flush()
        raise SystemExit(0) from None


def flush() -> None:
    """Write out the buffers of the standard streams, while a failure of standard output can be reported."""
    with _reported_writing():
        sys.stdout.flush()
    try:
        sys.stderr.flush()
    except OSError:  # Python's last flush would fail too, and set the exit status to 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def leave(status: int) -> NoReturn:
    """Exit so that Python's last flush of standard output can't fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(status)


def open_standard_streams() -> None:
    """Open the streams that the caller has closed (`>&-`), or the next file would take their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def colour(stream: TextIO) -> bool:
    """True for a terminal, unless its user asks for no colours."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _save(answer: Recommendation, output: Output) -> None:
    try:
        if output.save_to:
            result_files.save(answer, output.save_to)
        if output.html_to:
            result_files.write(document.render(answer), output.html_to, result_files.REPORT)
    except SavedResultError as error:
        error.trials = answer.trials
        raise


def _print(answer: Recommendation, output: Output, script: ScriptReport | None = None) -> None:
    if output.as_json and script is not None:
        print_out(json.dumps(json.loads(codec.render(answer)) | {"script": script.facts}))
    elif output.as_json:
        print_out(codec.render(answer))
    elif output.quiet:
        print_size(answer)
    else:
        next_steps = None if script is None else script.lines
        render = partial(terminal.render, verbose=output.verbose, next_steps=next_steps)
        print_laid_out(render, answer)


def _report(error: AutobatchError, *, as_json: bool) -> None:
    if not _speaks():
        return
    if as_json:
        print_out(codec.render_error(error, error.trials))
    else:
        rendered = terminal.render_error(error, width=_width(sys.stderr), colour=colour(sys.stderr))
        with suppress(OSError):
            print(rendered, file=sys.stderr, flush=True)


def _speaks() -> bool:
    """True in rank 0 under torchrun, and in any process without it: other ranks print nothing."""
    try:
        meeting = membership.of_environment()
    except UsageError:
        return True  # a wrong rank has to be reported by somebody
    return meeting is None or meeting.rank == 0


@contextmanager
def _reported_writing() -> Iterator[None]:
    """Leave in silence if the reader of standard output is gone (`| head`); report any other failure."""
    try:
        yield
    except BrokenPipeError:
        leave(0)
    except OSError as error:
        problem = AutobatchError(
            "the answer can't be written to standard output", code="cannot_print", facts=(str(error),)
        )
        _report(problem, as_json=False)
        leave(problem.exit_status)


def _width(stream: TextIO) -> int:
    if not stream.isatty():
        return _WIDTH
    return min(shutil.get_terminal_size((_WIDTH, 24)).columns, _MAX_WIDTH)
