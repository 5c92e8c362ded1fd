"""NVIDIA GPUs as the driver sees them: memory, utilisation, and the processes that use their memory.

NVML, NVIDIA's management library, numbers all GPUs of the machine in PCI order, whatever CUDA_VISIBLE_DEVICES
says. CUDA by default numbers only the visible GPUs, fastest first. An index thus means different GPUs to the
two, so a GPU is looked up by UUID or PCI id, never by index.

Nothing here raises because of the driver: a value that it refuses is None, with the reason in `notes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from autobatch.devices.nvml_library import (
    Memory,
    UnavailableError,
    find_handle,
    open_session,
    read_memory,
    read_memory_users,
    read_mig,
    read_utilisation,
)
from autobatch.records.device import MemoryUser

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A GPU as the driver saw it at one moment; None where the driver refused to answer.

    `index` is the driver's, in PCI order, and not CUDA's. `utilisation`: 0 to 1, over the driver's
    last sampling window (1/6 to 1 second). `memory_users`: every process with memory on the GPU, including
    this process. `mig`: the GPU is cut into slices, and the figures are those of the whole GPU.
    """

    index: int | None = None
    name: str | None = None
    uuid: str | None = None
    pci_bus_id: str | None = None
    driver: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    utilisation: float | None = None
    memory_users: tuple[MemoryUser, ...] = ()
    mig: bool = False
    notes: tuple[str, ...] = ()


def why_unavailable() -> str | None:
    """Why NVML can't be used on this machine, as one sentence; None where it can."""
    try:
        with open_session():
            return None
    except UnavailableError as error:
        return str(error)


def read_all() -> tuple[Reading, ...]:
    """Every GPU of the machine in PCI order; empty where NVML is unavailable (see `why_unavailable`)."""
    try:
        with open_session() as nvml:
            return tuple(_read_index(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except UnavailableError:
        return ()


def read(uuid: str | None, pci_bus_id: str | None = None) -> Reading | None:
    """The GPU with this UUID (with or without its `GPU-`), else the GPU at this PCI id.

    None where no GPU answers to either, or NVML is unavailable. A GPU that is out of reach, for example
    lost, gives a Reading with the given UUID and PCI id and a note. The UUID of a MIG slice isn't looked
    up: its PCI id leads to the whole GPU, whose reading says `mig`.
    """
    try:
        with open_session() as nvml:
            try:
                handle = find_handle(nvml, uuid, pci_bus_id)
            except nvml.NVMLError as error:
                return Reading(uuid=uuid, pci_bus_id=pci_bus_id, notes=(_out_of_reach(error),))
            return None if handle is None else _read(nvml, handle)
    except UnavailableError:
        return None


class UsageSampler:
    """Sample the utilisation of a GPU in a thread, from `start` to `stop`.

    The driver averages over a window of 1/6 to 1 second, so a measurement shorter than that includes the
    time before it. `interval_seconds`: time between samples.
    """

    # A driver whose GPU hangs may never answer; `stop` then abandons the thread.
    _JOIN_SECONDS = 2.0

    def __init__(
        self, uuid: str | None, pci_bus_id: str | None = None, *, interval_seconds: float = 0.2
    ) -> None:
        self._uuid = uuid
        self._pci_bus_id = pci_bus_id
        self._interval_seconds = interval_seconds
        self._samples: list[float] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Discard earlier samples and start to take new ones."""
        self.stop()
        # Fresh objects, because an abandoned thread may still write to the old.
        self._samples = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._sample, args=(self._samples, self._stopping), name="autobatch-usage", daemon=True
        )
        self._thread.start()

    def stop(self) -> float | None:
        """Mean utilisation since `start`, 0 to 1; None where the driver gave none. May be repeated."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(self._JOIN_SECONDS)
            self._thread = None
        return fmean(self._samples) if self._samples else None

    def _sample(self, samples: list[float], stopping: threading.Event) -> None:
        with suppress(UnavailableError), open_session() as nvml:
            handle = find_handle(nvml, self._uuid, self._pci_bus_id)
            stopped = handle is None
            while not stopped:
                # The wait comes first: an immediate sample would cover the time before `start`.
                stopped = stopping.wait(self._interval_seconds)
                with suppress(nvml.NVMLError):
                    samples.append(read_utilisation(nvml, handle))


def _read_index(nvml: Any, index: int) -> Reading:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        return Reading(index=index, notes=(_out_of_reach(error),))
    return _read(nvml, handle)


def _out_of_reach(error: Exception) -> str:
    return f"the driver can't reach this GPU: {error}"


class _Questions:
    """Questions to the driver about a GPU, with the reasons of those that it refused."""

    def __init__(self, nvml: Any) -> None:
        # Some drivers give a name that isn't UTF-8.
        self._refusal = (nvml.NVMLError, UnicodeDecodeError)
        self._subjects_by_reason: dict[str, list[str]] = {}

    def ask(self, subject: str, question: Callable[[], Answer]) -> Answer | None:
        """The driver's answer; None where it refused."""
        try:
            return question()
        except self._refusal as error:
            self._subjects_by_reason.setdefault(str(error), []).append(subject)
            return None

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each reason: a lost GPU refuses all questions for the same reason."""
        return tuple(
            f"no {', '.join(subjects)}: {reason}" for reason, subjects in self._subjects_by_reason.items()
        )


def _read(nvml: Any, handle: Any) -> Reading:
    questions = _Questions(nvml)
    ask = questions.ask
    memory = ask("memory", lambda: read_memory(nvml, handle)) or Memory()
    mig = ask("MIG mode", lambda: read_mig(nvml, handle)) or False
    return Reading(
        index=ask("index", lambda: int(nvml.nvmlDeviceGetIndex(handle))),
        name=ask("name", lambda: str(nvml.nvmlDeviceGetName(handle))),
        uuid=ask("UUID", lambda: str(nvml.nvmlDeviceGetUUID(handle))),
        pci_bus_id=ask("PCI id", lambda: str(nvml.nvmlDeviceGetPciInfo(handle).busId)),
        driver=ask("driver version", lambda: str(nvml.nvmlSystemGetDriverVersion())),
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        used_bytes=memory.used_bytes,
        utilisation=ask("utilisation", lambda: read_utilisation(nvml, handle)),
        memory_users=ask("processes", lambda: read_memory_users(nvml, handle)) or (),
        mig=mig,
        notes=(*_caveats(memory, mig), *questions.notes),
    )


def _caveats(memory: Memory, mig: bool) -> tuple[str, ...]:
    notes = []
    if mig:
        notes.append("MIG is on: these figures are those of the whole GPU, not of a slice")
    if memory.used_has_reserved:
        notes.append("used memory includes the driver's reserve")
    return tuple(notes)
