"""The files of the user that a measured command reads, listed for the cache of `autobatch run`."""

from __future__ import annotations

import os

from .user_code import is_users

# Kept in step with autobatch.scripts.scratch.
READS = "reads.txt"
# Files of a process. No further one is listed: a folder of a million images is read image by image.
_MOST_FILES = 10_000


class Reads:
    """Appends each path that is read for the first time to a list that all processes of a command share."""

    def __init__(self, scratch: str) -> None:
        self._seen: set[str] = set()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._list = os.open(os.path.join(scratch, READS), flags, 0o600)

    def note(self, path: str) -> None:
        if path in self._seen or len(self._seen) >= _MOST_FILES:
            return
        self._seen.add(path)
        if is_users(path):
            # One write, so that lines of several processes don't mix.
            os.write(self._list, os.fsencode(path) + b"\n")
