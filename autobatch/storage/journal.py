"""The journal of a search: its trials in a file, rewritten after each, until the search has an answer.

A crash or a power cut of the searching process loses at most the trial in flight. The file is replaced in one
step, so it is whole at every moment.
"""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError, SavedResultError
from autobatch.records.escaping import printable
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Environment
from autobatch.records.trial import Trial
from autobatch.records.workload import Workload
from autobatch.storage import cache_folder, json_records, result_files

SCHEMA = "autobatch-journal/1"
MAX_JOURNALS = 20
MAX_AGE_SECONDS = 7 * 24 * 3600.0

_NAME = re.compile(r"journal-\d{8}T\d{6}-[0-9a-f]{16}\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedSearch:
    """The trials of a search without an answer, in the order of their measurement, and their conditions.

    `environment.elapsed_seconds` is the time from the start of the search to its last trial.
    """

    trials: tuple[Trial, ...]
    workload: Workload
    device: Device
    limits: Limits
    world_size: int
    environment: Environment


class Journal:
    """The writer of one search's trials to a file in the cache folder.

    The file appears with the first trial. A journal that can't be written is given up in silence: a search
    that comes to its answer doesn't need it.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._search: UnfinishedSearch | None = None
        self._begin_seconds = time.monotonic()

    def opened(
        self,
        workload: Workload,
        device: Device,
        limits: Limits,
        environment: Environment,
        *,
        world_size: int = 1,
    ) -> None:
        """Take the conditions of the search. Journals that are too old or too many are removed."""
        self._search = UnfinishedSearch(
            trials=(),
            workload=workload,
            device=device,
            limits=limits,
            world_size=world_size,
            environment=environment,
        )
        with suppress(AutobatchError, OSError):
            _remove_stale(cache_folder.find_folder())

    def tried(self, trial: Trial) -> None:
        """Write the trials so far, this one included, and flush them to the disk."""
        if self._search is None:
            return
        elapsed_seconds = round(time.monotonic() - self._begin_seconds, 3)
        self._search = replace(
            self._search,
            trials=(*self._search.trials, trial),
            environment=replace(self._search.environment, elapsed_seconds=elapsed_seconds),
        )
        try:
            if self._path is None:
                self._path = cache_folder.make_folder() / _new_name()
            result_files.replace_file(self._path, _render(self._search).encode(), mode=0o600)
        except (AutobatchError, OSError):
            self._search = None

    def finished(self) -> None:
        """Remove the file: the search has its answer."""
        self._search = None
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def load_newest() -> UnfinishedSearch:
    """Read the journal that was written last. Raises AutobatchError where there is none to read."""
    folder = cache_folder.find_folder()
    journals = cache_folder.list_files(folder, _NAME)
    if not journals:
        raise SavedResultError(
            "no search has left a journal",
            code="no_journal",
            facts=(f"`{printable(str(folder))}` holds journals of searches that ended without an answer",),
            hint="show a saved result with `autobatch show FILE`; answers are in `autobatch cache list`",
        )
    return _load(journals[0][1])


def remove_all(folder: Path) -> None:
    """Remove every journal in the cache folder. Raises AutobatchError or OSError."""
    for _, path in cache_folder.list_files(folder, _NAME):
        path.unlink(missing_ok=True)


def _load(path: Path) -> UnfinishedSearch:
    name = f"`{printable(str(path))}`"
    text = result_files.read_text(path)
    document = json_records.decode(text, name)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise SavedResultError(
            f"{name} was written by another version of autobatch",
            code="wrong_version",
            facts=(f"this version reads journals of schema `{SCHEMA}`",),
            hint="probe again",
        )
    return json_records.convert(document, UnfinishedSearch, text, name)


def _render(search: UnfinishedSearch) -> str:
    return json_records.encode({"schema": SCHEMA, **json_records.values_of(search)}) + "\n"


def _new_name() -> str:
    return f"journal-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}.json"


def _remove_stale(folder: Path) -> None:
    """Remove journals beyond the age and the number that are kept; the new search adds its own."""
    oldest = time.time() - MAX_AGE_SECONDS
    for position, (changed, path) in enumerate(cache_folder.list_files(folder, _NAME)):
        if changed < oldest or position >= MAX_JOURNALS - 1:
            path.unlink(missing_ok=True)
