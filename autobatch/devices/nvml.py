"""What the driver says about NVIDIA GPUs: memory, utilisation, and which processes hold memory.

NVML, NVIDIA's management library, sees every GPU of the machine in PCI order, whatever
CUDA_VISIBLE_DEVICES says, while CUDA by default numbers only the visible ones, fastest first. An
index thus means different GPUs to the two, so a GPU is found by UUID or PCI id, never by index.

Nothing here raises because of the driver: what it won't answer is None, with the reason in `notes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import psutil

from autobatch.records.device import MemoryUser

Answer = TypeVar("Answer")

# A GPU may be held by plain CUDA programs, by clients of the multi-process service and by a desktop.
# Drivers before 510 have only the second version of these calls.
_PROCESS_CALLS = (
    ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2"),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One GPU as the driver saw it at one moment; None where the driver wouldn't say.

    `index` is the driver's, in PCI order, and not CUDA's. `utilisation`: 0 to 1, over the driver's
    last sampling window (1/6 to 1 second). `memory_users`: every process with memory on the GPU, this one
    included. `mig`: the GPU is cut into slices, and the figures here are those of the whole.
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
        with _session():
            return None
    except _UnavailableError as error:
        return str(error)


def read_all() -> tuple[Reading, ...]:
    """Every GPU of the machine in PCI order; empty where `why_unavailable` has something to say."""
    try:
        with _session() as nvml:
            return tuple(_read_index(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except _UnavailableError:
        return ()


def read(uuid: str | None, pci_bus_id: str | None = None) -> Reading | None:
    """The GPU with this UUID (with or without its `GPU-`), else the one at this PCI id.

    None where no GPU answers to either, or NVML is unavailable. A GPU that is there but out of reach,
    for example lost, gives a Reading that holds what was asked for and a note. The UUID of a MIG
    slice isn't looked up: its PCI id leads to the whole GPU, which says `mig`.
    """
    try:
        with _session() as nvml:
            try:
                handle = _find(nvml, uuid, pci_bus_id)
            except nvml.NVMLError as error:
                return Reading(uuid=uuid, pci_bus_id=pci_bus_id, notes=(_out_of_reach(error),))
            return None if handle is None else _read(nvml, handle)
    except _UnavailableError:
        return None


class UsageSampler:
    """Samples one GPU's utilisation in a thread of its own, from `start` to `stop`.

    The driver averages over a window of 1/6 to 1 second, so a stretch of work shorter than that also
    counts what came before it. `interval_seconds`: time between samples.
    """

    # A driver whose GPU has hung may never answer; the thread is then left behind.
    _PATIENCE_SECONDS = 2.0

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
        """Forgets earlier samples and starts to take new ones."""
        self.stop()
        # Fresh ones, because a thread that was left behind may still write to the old.
        self._samples = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._sample, args=(self._samples, self._stopping), name="autobatch-usage", daemon=True
        )
        self._thread.start()

    def stop(self) -> float | None:
        """Mean utilisation since `start`, 0 to 1; None where the driver wouldn't say. May be repeated."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(self._PATIENCE_SECONDS)
            self._thread = None
        return fmean(self._samples) if self._samples else None

    def _sample(self, samples: list[float], stopping: threading.Event) -> None:
        with suppress(_UnavailableError), _session() as nvml:
            handle = _find(nvml, self._uuid, self._pci_bus_id)
            stopped = handle is None
            while not stopped:
                # The wait comes first: a sample taken at once would tell of the time before `start`.
                stopped = stopping.wait(self._interval_seconds)
                with suppress(nvml.NVMLError):
                    samples.append(_utilisation(nvml, handle))


class _UnavailableError(Exception):
    """NVML can't be used at all. Never leaves this module."""


@contextmanager
def _session() -> Iterator[Any]:
    """The pynvml module, initialised; shut down again on the way out, so that nothing stays open."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        raise _UnavailableError("the package `nvidia-ml-py` is not installed") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise _UnavailableError(f"NVIDIA's management library can't be used: {error}") from error
    try:
        yield nvml
    except nvml.NVMLError as error:
        raise _UnavailableError(f"NVIDIA's driver refused: {error}") from error
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _find(nvml: Any, uuid: str | None, pci_bus_id: str | None) -> Any | None:
    """The handle of the GPU, None where there is no such GPU; raises NVMLError where it is out of reach.

    Both ways are tried before that, because a look-up by UUID asks every GPU of the machine and fails
    when any of them is lost.
    """
    unknown = (nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument)
    refusal = None
    for look_up, key in (
        (nvml.nvmlDeviceGetHandleByUUID, _full_uuid(uuid)),
        (nvml.nvmlDeviceGetHandleByPciBusId, pci_bus_id),
    ):
        if key is None:
            continue
        try:
            return look_up(key)
        except unknown:
            continue
        except nvml.NVMLError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    return None


def _full_uuid(uuid: str | None) -> str | None:
    """The UUID as NVML writes it (CUDA leaves `GPU-` out); None for the UUID of a MIG slice."""
    if uuid is None or uuid.startswith("MIG-"):
        return None
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"


def _read_index(nvml: Any, index: int) -> Reading:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        return Reading(index=index, notes=(_out_of_reach(error),))
    return _read(nvml, handle)


def _out_of_reach(error: Exception) -> str:
    return f"the driver can't reach this GPU: {error}"


class _Interview:
    """Puts questions to the driver about one GPU and keeps, for those it refused, the reason."""

    def __init__(self, nvml: Any) -> None:
        # A name that isn't UTF-8 has been seen from some drivers.
        self._refusal = (nvml.NVMLError, UnicodeDecodeError)
        self._refused: dict[str, list[str]] = {}

    def ask(self, what: str, question: Callable[[], Answer]) -> Answer | None:
        """The answer, or None."""
        try:
            return question()
        except self._refusal as error:
            self._refused.setdefault(str(error), []).append(what)
            return None

    @property
    def notes(self) -> tuple[str, ...]:
        """One line per reason: a GPU that is lost refuses everything, and that is one fact."""
        return tuple(f"no {', '.join(what)}: {reason}" for reason, what in self._refused.items())


def _read(nvml: Any, handle: Any) -> Reading:
    interview = _Interview(nvml)
    ask = interview.ask
    memory = ask("memory", lambda: _memory(nvml, handle)) or _Memory()
    mig = ask("MIG mode", lambda: _mig(nvml, handle)) or False
    return Reading(
        index=ask("index", lambda: int(nvml.nvmlDeviceGetIndex(handle))),
        name=ask("name", lambda: str(nvml.nvmlDeviceGetName(handle))),
        uuid=ask("UUID", lambda: str(nvml.nvmlDeviceGetUUID(handle))),
        pci_bus_id=ask("PCI id", lambda: str(nvml.nvmlDeviceGetPciInfo(handle).busId)),
        driver=ask("driver version", lambda: str(nvml.nvmlSystemGetDriverVersion())),
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        used_bytes=memory.used_bytes,
        utilisation=ask("utilisation", lambda: _utilisation(nvml, handle)),
        memory_users=ask("processes", lambda: _holders(nvml, handle)) or (),
        mig=mig,
        notes=(*_caveats(memory, mig), *interview.notes),
    )


class _Memory(NamedTuple):
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    used_has_reserved: bool = False


def _memory(nvml: Any, handle: Any) -> _Memory:
    """Total, free and used bytes. Drivers before 510 have only the first version of the call."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        used_has_reserved = False
    except nvml.NVMLError:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        used_has_reserved = True
    return _Memory(int(memory.total), int(memory.free), int(memory.used), used_has_reserved)


def _mig(nvml: Any, handle: Any) -> bool:
    """Whether the GPU is cut into slices."""
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return False  # how every GPU and driver that has no MIG answers
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _utilisation(nvml: Any, handle: Any) -> float:
    """The share of the driver's last sampling window in which any kernel ran, 0 to 1."""
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


def _caveats(memory: _Memory, mig: bool) -> tuple[str, ...]:
    notes = []
    if mig:
        notes.append("MIG is on: these figures are those of the whole GPU, not of a slice")
    if memory.used_has_reserved:
        notes.append("used memory includes what the driver reserves for itself")
    return tuple(notes)


def _holders(nvml: Any, handle: Any) -> tuple[MemoryUser, ...]:
    """The processes with memory on the GPU, largest first.

    Raises NVMLError only where CUDA programs can't be listed; the other lists exist on few machines.
    """
    held: dict[int, int | None] = {}
    for position, versions in enumerate(_PROCESS_CALLS):
        try:
            processes = _processes(nvml, handle, *versions)
        except nvml.NVMLError:
            if position == 0:
                raise
            continue
        # A program that computes and draws is in two lists, each with all that it holds.
        held |= {int(one.pid): one.usedGpuMemory for one in processes if held.get(one.pid) is None}
    memory_users = (
        MemoryUser(pid=pid, name=_process_name(pid), memory_bytes=size) for pid, size in held.items()
    )
    return tuple(sorted(memory_users, key=lambda holder: (-(holder.memory_bytes or 0), holder.pid)))


def _processes(nvml: Any, handle: Any, newer: str, older: str) -> list[Any]:
    try:
        return list(getattr(nvml, newer)(handle))
    except nvml.NVMLError_FunctionNotFound:
        return list(getattr(nvml, older)(handle))


def _process_name(pid: int) -> str:
    """The name of a process, `?` where it is gone or can't be seen, as from inside a container."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"
