"""What the command says, and how it ends: answers, errors, saved files and the standard streams."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

from autobatch.engines.ranks import membership
from autobatch.records.errors import AutobatchError, SavedResultError, UsageError
from autobatch.records.recommendation import Recommendation
from autobatch.reports.html import document
from autobatch.reports.text import terminal
from autobatch.storage import codec, result_files

# torchrun ends all ranks as soon as one has failed: the one that says why needs time to do so.
_SILENT_SECONDS = 5.0


def deliver(found: Recommendation, options: dict[str, Any]) -> None:
    """Saves the answer and prints it in the form that was asked for; what can't be saved is printed first."""
    try:
        _save(found, options)
    except SavedResultError:
        # The one object on standard output is then the error's, which holds the rows.
        if not options["as_json"]:
            _show(found, options)
        raise
    _show(found, options)


def _save(found: Recommendation, options: dict[str, Any]) -> None:
    try:
        if options["save_to"]:
            result_files.save(found, options["save_to"])
        if options["html_to"]:
            result_files.write(document.render(found), options["html_to"], result_files.REPORT)
    except SavedResultError as error:
        error.trials = found.trials
        raise


def _show(found: Recommendation, options: dict[str, Any]) -> None:
    if options["as_json"]:
        print_out(codec.render(found))
    elif options["quiet"]:
        print_out(str(found.batch_size))
    else:
        print_laid_out(terminal.render, found)


def show_interrupted(found: Recommendation | None, options: dict[str, Any]) -> None:
    """What was measured before Ctrl-C: as rows, or in the error object; never as a plain answer."""
    error = AutobatchError("interrupted", code="interrupted")
    if found is not None:
        error.trials = found.trials
        if not options["as_json"] and not options["quiet"]:
            _show(found, options)
        _save(found, options)
    _report(error, as_json=options["as_json"])
    flush()


def fail(error: AutobatchError, *, as_json: bool, status: int | None = None) -> NoReturn:
    """Tells the error and exits with its status, or another one."""
    _report(error, as_json=as_json)
    flush()
    if not _speaks():
        time.sleep(_SILENT_SECONDS)
    raise SystemExit(error.exit_status if status is None else status)


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
    """True in the first of the ranks that torchrun has started, and where it has started none.

    It speaks for all of them: the others print nothing, and exit alike.
    """
    try:
        meeting = membership.of_environment()
    except UsageError:
        return True  # what is wrong with the rank has to be said by somebody
    return meeting is None or meeting.rank == 0


def print_out(rendered: str) -> None:
    """Prints on standard output, in the one rank that speaks."""
    if not _speaks():
        return
    encoding = sys.stdout.encoding or "utf-8"
    with _told_writing():
        sys.stdout.write(rendered.encode(encoding, errors="replace").decode(encoding) + "\n")


def print_laid_out(render: Callable[..., str], found: Any) -> None:
    """Prints what `render` makes of `found` for the width and the colours of standard output."""
    print_out(render(found, width=_width(sys.stdout), colour=colour(sys.stdout)))


def flush() -> None:
    """Writes out what the standard streams still hold, while a failure of standard output can be told."""
    with _told_writing():
        sys.stdout.flush()
    try:
        sys.stderr.flush()
    except OSError:  # Python's own flush at the end would fail too, and make the exit status 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextmanager
def _told_writing() -> Iterator[None]:
    """Leaves quietly when the reader of standard output is gone (`| head`); any other failure is told."""
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


def leave(status: int) -> NoReturn:
    """Exits so that Python's own flush of standard output has nothing to complain of."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(status)


def open_standard_streams() -> None:
    """Fills what the caller has closed (`>&-`), or the next file that is opened would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def colour(stream: TextIO) -> bool:
    """True where colours are wanted."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _width(stream: TextIO) -> int:
    return min(shutil.get_terminal_size((80, 24)).columns, 100) if stream.isatty() else 80
