"""The user's cache folder for autobatch, which holds answers and the journals of searches."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import platformdirs

from autobatch.records.errors import AutobatchError
from autobatch.records.escaping import printable

FOLDER_VARIABLE = "AUTOBATCH_CACHE"


def find_folder() -> Path:
    """Return the folder, which need not exist. Raises AutobatchError for a user without a home."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen).absolute()
    try:
        return platformdirs.user_cache_path("autobatch", appauthor=False, opinion=False)
    except RuntimeError as error:
        raise AutobatchError(
            "there is no cache folder, since this user has no home",
            code="no_cache_folder",
            facts=(str(error),),
            hint=f"name a folder with `{FOLDER_VARIABLE}`",
        ) from error


def make_folder() -> Path:
    """Make the folder if it is missing, readable by this user only. Raises AutobatchError or OSError."""
    folder = find_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def list_files(folder: Path, name: re.Pattern[str]) -> list[tuple[float, Path]]:
    """List the files whose whole name matches, the newest first, each with its time of change in seconds.

    A missing folder holds none. Raises AutobatchError for a folder that can't be read.
    """
    dated = []
    try:
        for entry in os.scandir(folder):
            if name.fullmatch(entry.name):
                # Another process may have just removed it.
                with suppress(FileNotFoundError):
                    dated.append((entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unusable(folder, "read", error) from error
    return sorted(dated, reverse=True)


def unusable(folder: Path, action: str, error: OSError) -> AutobatchError:
    """Return the error for a cache folder that can't be `read` or `cleared`."""
    return AutobatchError(
        f"the cache can't be {action}",
        code="no_cache_folder",
        facts=(f"`{printable(str(folder))}`: {error.strerror or error}",),
        hint=f"repair its permissions, or name another folder with `{FOLDER_VARIABLE}`",
    )
