"""The first key of the cache: from the arguments of a search to its answer, without a worker.

The name of its file is a digest of all that is known before any code of the user runs. The file names the
answer and lists the files that the worker read. If one of them has changed, a worker has to look.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from json import dumps

from autobatch.devices import host
from autobatch.devices.recorded import read_again
from autobatch.records.cached import FilesRead
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.records.workload import Workload
from autobatch.storage import cache, cache_folder, json_records, result_files
from autobatch.workload import file_watch, source_files

SCHEMA = "autobatch-first-key/1"
_NAME = re.compile(r"key-[0-9a-f]{32}\.json")
# Variables of a terminal's session, which no training reads. Every other variable may change a training.
_OF_SESSION = re.compile(
    "_|COLUMNS|LINES|OLDPWD|PWD|SHLVL|STY|TMUX|TMUX_PANE|WINDOW|WINDOWID|DISPLAY|TERM|COLORTERM|NO_COLOR"
    "|(DBUS|SSH|TERM|VSCODE|XDG_SESSION|JPY)_.*"
)
# Entries of /dev that appear with an accelerator.
_ACCELERATORS = ("accel", "apex", "dri", "dxg", "habanalabs", "kfd", "nvidia")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """The cache's entry that holds the answer, and the conditions of its search."""

    entry: str
    device: Device
    workload: Workload
    files: FilesRead


class FirstKey:
    """The place of a first key in the cache folder. A failure to use it costs the start of a worker."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._limits = limits

    @classmethod
    def of(cls, limits: Limits, recipe: Mapping[str, object], device: str | None) -> FirstKey:
        """The place for the arguments of a search in this process."""
        return cls(name_of(limits, recipe, device, os.environ), limits)

    def answer(self) -> Recommendation | None:
        """Return the answer of an earlier search; None if there is none, or if a worker has to look."""
        note = self._load()
        if note is None or not file_watch.are_unchanged(note.files):
            return None
        device = read_again(note.device, self._limits.memory_fraction)
        if device is None:
            return None
        return cache.Slot(note.entry, self._limits, device, note.workload).answer()

    def keep(self, entry: str, *, device: Device, workload: Workload, files: FilesRead) -> None:
        """Write the key of the answer in the cache's `entry`, unless a file may have escaped."""
        if files.unseen:
            return
        note = _Note(entry=entry, device=device, workload=workload, files=files)
        content = json_records.encode({"schema": SCHEMA, **json_records.values_of(note)})
        with suppress(AutobatchError, OSError):
            folder = cache_folder.make_folder()
            result_files.replace_file(folder / self._name, content.encode(), mode=0o600)
            for _, path in cache_folder.list_files(folder, _NAME)[cache.MOST_ENTRIES :]:
                path.unlink(missing_ok=True)

    def _load(self) -> _Note | None:
        try:
            path = cache_folder.find_folder() / self._name
            document = json_records.decode(text := result_files.read_text(path), self._name)
            if not isinstance(document, dict) or document.get("schema") != SCHEMA:
                return None
            note = json_records.convert(document, _Note, text, self._name)
        except AutobatchError:
            return None
        return note if cache.is_entry(note.entry) else None


def name_of(
    limits: Limits, recipe: Mapping[str, object], device: str | None, environment: Mapping[str, str]
) -> str:
    """Return the name of the file for the arguments of a search. It changes with each of them.

    `recipe`: how the worker gets at the workload. `device`: the name that was asked for.
    """
    parts = {
        "limits": asdict(limits),
        "recipe": dict(recipe),
        "device": device,
        "environment": {
            name: value for name, value in environment.items() if not _OF_SESSION.fullmatch(name)
        },
        "folder": os.getcwd(),
        "python": [sys.executable, sys.version, sys.prefix],
        "package": source_files.of_package(),
        "machine": [platform.node(), platform.platform(), host.usable_cpus(), host.cpu_quota()],
        "accelerators": _accelerators(),
        "schema": SCHEMA,
    }
    digest = hashlib.sha256(dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return f"key-{digest[:32]}.json"


def _accelerators() -> list[str]:
    try:
        return sorted(name for name in os.listdir("/dev") if name.startswith(_ACCELERATORS))
    except OSError:
        return []
