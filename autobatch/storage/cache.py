"""Answers of earlier searches: a JSON file each, in the user's cache folder. Data only, nothing is executed.

The name of the file is a digest of all that the answer depends on. An entry that can't be read, or can't be
written, costs a measurement or a warning, never the answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
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
# Free memory is never the same twice: a limit this near to the one of the measurement is the same limit.
NEAR = 0.1
# Where there is less memory than then, what was measured has to fit with so much to spare.
_SPARE = 0.05
_ENTRY = re.compile(r"[0-9a-f]{32}\.json")
_UNFINISHED = ".autobatch-*.part"
# What torch and the libraries under it read from the environment, and train otherwise for.
_READ_BY_TORCH = ("PYTORCH_", "TORCH_", "OMP_", "MKL_", "KMP_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_")
_MEMORY_DECIDES = (Outcome.OUT_OF_MEMORY, Outcome.CRASHED)


class Slot:
    """The place of one search's answer in the cache. What goes wrong with it is a warning on the answer.

    Without a `name`, nothing is looked up and nothing kept; `why_not` says why.
    """

    def __init__(
        self, name: str, limits: Limits, device: Device, workload: Workload, *, why_not: str = ""
    ) -> None:
        self._name = name
        self._why_not = why_not
        self._limits = limits
        self._device = device
        self._workload = workload
        self._warnings: list[str] = []

    def answer(self) -> Recommendation | None:
        """The answer of an earlier search, where there is one that still holds."""
        if not self._name:
            return None
        try:
            found = result_files.load(cache_folder.find_folder() / self._name)
        except SavedResultError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                self._warn(f"{error.message}: {'; '.join(error.facts)}")
            return None
        except AutobatchError:
            return None  # told when the answer is kept
        if not self._is_of_this_search(found):
            self._warn(f"`{self._name}` holds the answer of another search")
            return None
        return replace(found, cached=True) if still_fits(found, self._device) else None

    def keep(self, found: Recommendation) -> Recommendation:
        """The same answer, with a warning where it could not be kept, or where an entry was ignored."""
        if not self._name:
            self._warnings.append(f"the answer was not kept in the cache: {self._why_not}")
        # One that its last try could not confirm is worth another search.
        elif found.chosen.confirmed:
            try:
                folder = cache_folder.make_folder()
                result_files.replace_file(
                    folder / self._name, (codec.render(found) + "\n").encode(), mode=0o600
                )
                _drop_oldest(folder)
            except (AutobatchError, OSError) as error:
                self._warnings.append(f"the answer was not kept in the cache: {printable(str(error))}")
        return replace(found, warnings=(*found.warnings, *self._warnings))

    def _warn(self, what: str) -> None:
        self._warnings.append(f"an entry of the cache was ignored: {what}")

    def _is_of_this_search(self, found: Recommendation) -> bool:
        """False for a file that somebody has put in the place of the one that belongs there."""
        return (
            found.limits == self._limits
            and _identity(found.device) == _identity(self._device)
            and found.workload.target == self._workload.target
            and found.workload.model == self._workload.model
            and found.workload.parameters == self._workload.parameters
        )


def name_of(
    fingerprint: Mapping[str, str],
    limits: Limits,
    device: Device,
    recipe: Mapping[str, object],
    environment: Mapping[str, str],
) -> str:
    """The name of the file for a search: another one as soon as any part of what it depends on is another.

    `recipe`: how the worker was told to get at the workload. The memory that is free is not among them:
    see `still_fits`.
    """
    parts = {
        "fingerprint": dict(fingerprint),
        "limits": asdict(limits),
        "device": _identity(device),
        "recipe": dict(recipe),
        "environment": {
            name: value for name, value in environment.items() if name.startswith(_READ_BY_TORCH)
        },
        "schema": codec.SCHEMA,
    }
    return hashlib.sha256(dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32] + ".json"


def still_fits(found: Recommendation, now: Device) -> bool:
    """True where an answer of the same search holds with the memory that there is now.

    What was recommended has to fit into what is free. Under a limit of the user's that is all. Without one,
    what was available then was the limit: where it stopped the search, it has to be within a tenth of the
    same now; where it did not, all that passed has to fit still.
    """
    chosen = _taken_bytes(found.chosen)
    if chosen is not None and now.free_bytes is not None and chosen > now.free_bytes:
        return False
    if found.limits.memory_bytes is not None:
        return True
    then_bytes, now_bytes = found.device.limit_bytes, now.limit_bytes
    if then_bytes is None or now_bytes is None:
        return then_bytes is now_bytes
    near = abs(now_bytes - then_bytes) <= NEAR * then_bytes
    stopped = found.ceiling.limited_by is LimitedBy.MEMORY
    if stopped or any(trial.outcome in _MEMORY_DECIDES for trial in found.trials):
        needed = chosen
        if not near:
            return False
    else:
        needed = max((_taken_bytes(trial) or 0 for trial in found.trials if trial.ok), default=0) or None
    if now_bytes >= then_bytes:
        return True
    return near if needed is None else (1 + _SPARE) * needed <= now_bytes


def list_entries() -> CacheListing:
    """What lies in the cache. Raises AutobatchError where its folder can't be read."""
    folder = cache_folder.find_folder()
    found, damaged = [], []
    for path in _paths(folder):
        try:
            size_bytes = path.stat().st_size
            found.append(
                CacheEntry(path=printable(str(path)), size_bytes=size_bytes, answer=result_files.load(path))
            )
        except SavedResultError as error:
            damaged.append(f"{error.message}: {'; '.join(error.facts)}")
        except FileNotFoundError:
            continue  # another process has just removed it
    return CacheListing(folder=printable(str(folder)), entries=tuple(found), damaged=tuple(damaged))


def clear() -> int:
    """How many entries were removed: all that there were, damaged ones too, and nothing else.

    Raises AutobatchError where one can't be removed.
    """
    folder = cache_folder.find_folder()
    paths = _paths(folder)
    try:
        for path in (*paths, *folder.glob(_UNFINISHED)):
            path.unlink(missing_ok=True)
        journal.remove_all(folder)
    except OSError as error:
        raise cache_folder.unusable(folder, "cleared", error) from error
    return len(paths)


def _identity(device: Device) -> dict[str, object]:
    """What makes a device the same; its memory limit and what is free of it are another matter."""
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
