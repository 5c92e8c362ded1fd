"""The cache of answers: a JSON file for each, in the user's cache folder. Reading a file executes nothing.

The name of the file is a digest of everything that the answer depends on. An entry that can't be read or
written costs a measurement or a warning, never the answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path

from autobatch.records.cached import CacheEntry, CacheListing
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError, SavedResultError
from autobatch.records.escaping import printable
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload
from autobatch.storage import cache_folder, codec, journal, result_files

MOST_ENTRIES = 200
# Free memory is never the same twice: limits that differ by no more than this share are the same limit.
NEAR = 0.1
# With less memory than at the measurement, the measured sizes have to fit with this share to spare.
_SPARE = 0.05
_ENTRY = re.compile(r"[0-9a-f]{32}\.json")
_UNFINISHED = ".autobatch-*.part"
_FIRST_KEYS = "key-*.json"
# Prefixes of variables that change how torch and its libraries train.
_TORCH_PREFIXES = ("PYTORCH_", "TORCH_", "OMP_", "MKL_", "KMP_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_")
_MEMORY_OUTCOMES = (Outcome.OUT_OF_MEMORY, Outcome.CRASHED)


class Slot:
    """The place of one search's answer in the cache. A failure to use it is a warning on the answer.

    Without a `name`, nothing is looked up and nothing kept; `why_not` is the reason. `remember` hears the
    name of an entry that holds the answer.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        device: Device,
        workload: Workload,
        *,
        why_not: str = "",
        remember: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._name = name
        self._why_not = why_not
        self._remember = remember
        self._limits = limits
        self._device = device
        self._workload = workload
        self._warnings: list[str] = []

    def answer(self) -> Recommendation | None:
        """Return the answer of an earlier search; None if there is none, or if it no longer holds."""
        if not self._name:
            return None
        try:
            answer = result_files.load(cache_folder.find_folder() / self._name)
        except SavedResultError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                self._warn(f"{error.message}: {'; '.join(error.facts)}")
            return None
        except AutobatchError:
            return None  # `keep` warns of it
        if not self._is_of_this_search(answer):
            self._warn(f"`{self._name}` holds the answer of another search")
            return None
        if not still_fits(answer, self._device):
            return None
        self._remember(self._name)
        return replace(answer, cached=True)

    def keep(self, answer: Recommendation) -> Recommendation:
        """Write the answer, and return it with a warning for each failure and each ignored entry."""
        if not self._name:
            self._warnings.append(f"the answer was not kept in the cache: {self._why_not}")
        # An answer that its last try could not confirm is worth another search.
        elif answer.chosen.confirmed:
            try:
                write_entry(self._name, codec.render(answer))
                self._remember(self._name)
            except (AutobatchError, OSError) as error:
                self._warnings.append(f"the answer was not kept in the cache: {printable(str(error))}")
        return replace(answer, warnings=(*answer.warnings, *self._warnings))

    def _warn(self, reason: str) -> None:
        self._warnings.append(f"an entry of the cache was ignored: {reason}")

    def _is_of_this_search(self, answer: Recommendation) -> bool:
        """False for a file that was put in the place of another."""
        return (
            answer.limits == self._limits
            and _identity(answer.device) == _identity(self._device)
            and answer.workload.target == self._workload.target
            and answer.workload.model == self._workload.model
            and answer.workload.parameters == self._workload.parameters
        )


def write_entry(name: str, rendered: str) -> None:
    """Write an answer's JSON, and drop the oldest entries. Raises AutobatchError or OSError."""
    folder = cache_folder.make_folder()
    result_files.replace_file(folder / name, (rendered + "\n").encode(), mode=0o600)
    _drop_oldest(folder)


def name_of(
    fingerprint: Mapping[str, str],
    limits: Limits,
    device: Device,
    recipe: Mapping[str, object],
    environment: Mapping[str, str],
) -> str:
    """Return the name of the file for a search: a digest that changes with each of its parts.

    `recipe`: how the worker gets at the workload. Free memory is no part of it: see `still_fits`.
    """
    parts = {
        "fingerprint": dict(fingerprint),
        "limits": asdict(limits),
        "device": _identity(device),
        "recipe": dict(recipe),
        "environment": {
            name: value for name, value in environment.items() if name.startswith(_TORCH_PREFIXES)
        },
        "schema": codec.SCHEMA,
    }
    return hashlib.sha256(dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32] + ".json"


def still_fits(answer: Recommendation, device: Device) -> bool:
    """True if an answer of the same search holds with the memory of the device today.

    The recommended size has to fit into the free memory. With a limit of the user's, that is all. Without,
    the memory that was available at the measurement was the limit. If it stopped the search, today's limit
    has to be within NEAR of it. If not, all sizes that passed have to fit.
    """
    chosen_bytes = _taken_bytes(answer.chosen)
    if chosen_bytes is not None and device.free_bytes is not None and chosen_bytes > device.free_bytes:
        return False
    if answer.limits.memory_bytes is not None:
        return True
    measured_bytes, current_bytes = answer.device.limit_bytes, device.limit_bytes
    if measured_bytes is None or current_bytes is None:
        return measured_bytes is current_bytes
    near = abs(current_bytes - measured_bytes) <= NEAR * measured_bytes
    stopped = answer.ceiling.limited_by is LimitedBy.MEMORY
    if stopped or any(trial.outcome in _MEMORY_OUTCOMES for trial in answer.trials):
        needed_bytes = chosen_bytes
        if not near:
            return False
    else:
        passed = [_taken_bytes(trial) or 0 for trial in answer.trials if trial.ok]
        needed_bytes = max(passed, default=0) or None
    if current_bytes >= measured_bytes:
        return True
    return near if needed_bytes is None else (1 + _SPARE) * needed_bytes <= current_bytes


def is_entry(name: str) -> bool:
    """True for the name of a file that holds an answer."""
    return _ENTRY.fullmatch(name) is not None


def list_entries() -> CacheListing:
    """List the answers in the cache. Raises AutobatchError for a folder that can't be read."""
    folder = cache_folder.find_folder()
    entries, damaged = [], []
    for path in _paths(folder):
        try:
            size_bytes = path.stat().st_size
            answer = result_files.load(path)
            entries.append(CacheEntry(path=printable(str(path)), size_bytes=size_bytes, answer=answer))
        except SavedResultError as error:
            damaged.append(f"{error.message}: {'; '.join(error.facts)}")
        except FileNotFoundError:
            continue  # another process has just removed it
    return CacheListing(folder=printable(str(folder)), entries=tuple(entries), damaged=tuple(damaged))


def clear() -> int:
    """Remove all answers, damaged ones too, all first keys and journals. Returns the number of answers.

    Raises AutobatchError if a file can't be removed.
    """
    folder = cache_folder.find_folder()
    paths = _paths(folder)
    try:
        for path in (*paths, *folder.glob(_UNFINISHED), *folder.glob(_FIRST_KEYS)):
            path.unlink(missing_ok=True)
        journal.remove_all(folder)
    except OSError as error:
        raise cache_folder.unusable(folder, "cleared", error) from error
    return len(paths)


def _identity(device: Device) -> dict[str, object]:
    """Return the fields that identify a device; free memory and limits change from search to search."""
    names = ("kind", "index", "name", "uuid", "driver", "threads", "total_bytes")
    return {name: getattr(device, name) for name in names}


def _taken_bytes(trial: Trial) -> int | None:
    return trial.peak_bytes if trial.reserved_bytes is None else trial.reserved_bytes


def _paths(folder: Path) -> list[Path]:
    """List the files of entries, the newest first. Raises AutobatchError for an unreadable folder."""
    return [path for _, path in cache_folder.list_files(folder, _ENTRY)]


def _drop_oldest(folder: Path) -> None:
    for path in _paths(folder)[MOST_ENTRIES:]:
        path.unlink(missing_ok=True)
