"""Results and reports in files, written whole or not at all. Reading a file executes nothing."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autobatch.records.errors import SavedResultError
from autobatch.records.escaping import printable
from autobatch.records.formatting import format_bytes
from autobatch.records.recommendation import Recommendation
from autobatch.storage import codec

# A result takes some kilobytes: autobatch has never written a larger file than this.
MAX_BYTES = 8 * 2**20
_CHOOSE_FOLDER = "choose a folder that exists and can be written to"
_GIVE_RESULT = "give the path of a file that `autobatch probe --save` wrote"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: its name in errors, and the option that writes it."""

    name: str
    option: str


RESULT = Kind("result", "--save result.json")
REPORT = Kind("report", "--html report.html")


def save(recommendation: Recommendation, path: str | os.PathLike[str]) -> None:
    """Write the result to `path` in one step; a failure leaves an older file as it was.

    Raises SavedResultError if it can't be written.
    """
    write(codec.render(recommendation) + "\n", path)


def write(text: str, path: str | os.PathLike[str], kind: Kind = RESULT) -> None:
    """Write a text to `path` in one step; a failure leaves an older file as it was.

    Raises SavedResultError if it can't be written.
    """
    try:
        replace_file(_target(path, kind), text.encode())
    except (OSError, ValueError) as error:
        raise _unwritable(path, kind, _reason(error), _CHOOSE_FOLDER) from error


def check_writable(path: str | os.PathLike[str], kind: Kind = RESULT) -> None:
    """Raise SavedResultError if `write` can't write to `path`: a check before minutes of measuring."""
    try:
        folder = _target(path, kind).parent
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder `{printable(str(Path(path).parent))}`")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"the folder `{printable(str(folder))}` can't be written to")
    except (OSError, ValueError) as error:
        raise _unwritable(path, kind, _reason(error), _CHOOSE_FOLDER) from error


def load(path: str | os.PathLike[str]) -> Recommendation:
    """Read the result that `save` wrote to `path`. Raises SavedResultError for any other file.

    A result of schema 1 can be read too; its `decidable` is False.
    """
    return codec.parse(read_text(path), name=_quoted(path))


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a regular file of at most MAX_BYTES. Raises SavedResultError where that can't be done."""
    name = _quoted(path)
    try:
        # Checked before it is opened, since opening alone may start a device; and after, when the file
        # can't be exchanged any more.
        _require_regular(os.stat(path).st_mode, name)
        with open(path, "rb", opener=_open_at_once) as file:
            _require_regular(os.fstat(file.fileno()).st_mode, name)
            content = file.read(MAX_BYTES + 1) or b""
    except (OSError, ValueError) as error:
        raise _unreadable(name, _reason(error), _GIVE_RESULT) from error
    if len(content) > MAX_BYTES:
        fact = f"it is larger than {format_bytes(MAX_BYTES)}, and a result takes a few KiB"
        raise _unreadable(name, fact, _GIVE_RESULT)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise SavedResultError(
            f"{name} is not JSON",
            code="not_json",
            facts=(f"it is not UTF-8 text: {error.reason} at byte {error.start}",),
            hint=_GIVE_RESULT,
        ) from error


def _open_at_once(path: str, flags: int) -> int:
    """Open a descriptor at once, where a pipe would wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise _unreadable(name, f"it is {kind}", _GIVE_RESULT)


def _target(path: str | os.PathLike[str], kind: Kind) -> Path:
    """Follow the links of `path`. Raises SavedResultError if they lead to something other than a file."""
    # Through a link, so that the link stays and the temporary file is on the target's file system.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        actual = "a directory" if target.is_dir() else "not a regular file"
        raise _unwritable(path, kind, f"it is {actual}", f"name a file: `{kind.option}`")
    return target


def replace_file(target: Path, content: bytes, mode: int = 0o666) -> None:
    """Put `content` at `target` in one step; it is flushed to the disk before it gets its name.

    The umask limits `mode`. Raises OSError.
    """
    part = target.with_name(f".autobatch-{secrets.token_hex(8)}.part")
    # Exclusive, so that no other's file or link is written through.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, if the system can (Windows opens no folders)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(path: str | os.PathLike[str], kind: Kind, fact: str, hint: str) -> SavedResultError:
    return SavedResultError(
        f"the {kind.name} can't be saved to {_quoted(path)}", code="cannot_save", facts=(fact,), hint=hint
    )


def _unreadable(name: str, fact: str, hint: str) -> SavedResultError:
    return SavedResultError(f"{name} can't be read", code="cannot_load", facts=(fact,), hint=hint)


def _quoted(path: str | os.PathLike[str]) -> str:
    return f"`{printable(os.fspath(path))}`"


def _reason(error: Exception) -> str:
    """Return the system's message without its number, and without the name that our message has."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return reason[:1].lower() + reason[1:]
