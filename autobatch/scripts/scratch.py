"""The folder of one measurement, and the working folder as it was before."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Kept in step with autobatch.scripts.child.protection and reads.
_FOLDERS = "folders.jsonl"
_READS = "reads.txt"
# Beyond so many files of the working folder no comparison is made.
_MOST_FILES = 20_000


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for all that the measured command writes, deleted at the end with the folders it has made."""
    # Paths of Unix sockets are short, so the name is.
    folder = Path(tempfile.mkdtemp(prefix="ab-")).resolve()
    try:
        yield folder
    finally:
        remove_new_folders(folder)
        shutil.rmtree(folder, ignore_errors=True)


def remove_new_folders(scratch: Path) -> None:
    """Remove the folders that the command has made, as far as they are empty, and put dates back."""
    try:
        lines = (scratch / _FOLDERS).read_text().splitlines()
    except FileNotFoundError:
        return
    for made in map(json.loads, reversed(lines)):
        with contextlib.suppress(OSError):
            os.rmdir(made["folder"])
        if made["parent_mtime_ns"]:
            with contextlib.suppress(OSError):
                parent = os.path.dirname(made["folder"])
                os.utime(parent, ns=(os.stat(parent).st_atime_ns, made["parent_mtime_ns"]))


def reads(scratch: Path) -> tuple[str, ...]:
    """The files of the user that all processes of the command have read, by their absolute paths."""
    try:
        lines = (scratch / _READS).read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(path for path in sorted({os.fsdecode(line) for line in lines}) if os.path.isfile(path))


def listing(folder: Path) -> dict[str, tuple[int, int]] | None:
    """Size and date of each file below a folder, by its relative path; None where there are too many."""
    found: dict[str, tuple[int, int]] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                found[os.path.relpath(path, folder)] = (status.st_size, status.st_mtime_ns)
        if len(found) > _MOST_FILES:
            return None
    return found


def changes(
    before: dict[str, tuple[int, int]] | None, after: dict[str, tuple[int, int]] | None
) -> tuple[str, ...]:
    """The files that are new, gone or different, by name; empty where the folder was too large to compare."""
    if before is None or after is None:
        return ()
    return tuple(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)))
