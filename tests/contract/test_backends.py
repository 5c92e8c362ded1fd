"""The contract of a backend: whoever measures may rely on this, whatever the device is.

A subject is a way to open a backend and to hold memory on its device. To add one, add it to SUBJECTS.
Each case opens its backend in a process of its own.
"""

from __future__ import annotations

import mmap
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from autobatch.devices import parse_name
from autobatch.devices.base import Backend
from autobatch.devices.oom import Cause, classify
from autobatch.records.device import Device
from autobatch.records.errors import DeviceError
from tests.contract.child import in_child
from tests.simulated import SimulatedBackend

MIB = 1 << 20


def _open_cpu() -> Backend:
    from autobatch.devices.cpu import CpuBackend

    return CpuBackend()


def _open_testdev() -> Backend:
    from autobatch.devices.accelerator import AcceleratorBackend
    from tests import accelerator

    if accelerator.missing():
        pytest.skip(accelerator.missing())
    from tests.accelerator import testdev

    testdev.register(1024 * MIB)
    return AcceleratorBackend(testdev.NAME)


def _open_simulated() -> Backend:
    return SimulatedBackend()


def _open_cuda() -> Backend:
    from autobatch.devices.cuda import CudaBackend

    return CudaBackend()


def _open_mps() -> Backend:
    from autobatch.devices.mps import MpsBackend

    return MpsBackend()


def _hold_tensor(backend: Backend, size_bytes: int) -> object:
    return torch.ones(size_bytes, dtype=torch.uint8, device=backend.torch_device)


class SimulatedBlock:
    """Memory of a simulated device, given back when nobody holds it any more, as a tensor's is."""

    def __init__(self, backend: SimulatedBackend, size_bytes: int) -> None:
        weakref.finalize(self, backend.free, backend.allocate(size_bytes))


def _hold_simulated(backend: Backend, size_bytes: int) -> object:
    assert isinstance(backend, SimulatedBackend)
    return SimulatedBlock(backend, size_bytes)


@dataclass(frozen=True)
class Subject:
    """`slack_bytes`: how far above the bytes held the peak may lie; `short_bytes`: how far below."""

    open: Callable[[], Backend]
    slack_bytes: int
    short_bytes: int = 0
    hold: Callable[[Backend, int], object] = _hold_tensor
    may_be_absent: bool = False


SUBJECTS = {
    # The peak of a process has its other allocations in it, and the kernel adds up the pages of each
    # processor only now and then.
    "cpu": Subject(_open_cpu, slack_bytes=16 * MIB, short_bytes=MIB),
    "testdev": Subject(_open_testdev, slack_bytes=1),
    "simulated": Subject(_open_simulated, slack_bytes=1, hold=_hold_simulated),
    "cuda": Subject(_open_cuda, slack_bytes=2 * MIB, may_be_absent=True),
    "mps": Subject(_open_mps, slack_bytes=16 * MIB, may_be_absent=True),
}

Case = Callable[[Backend, Subject], None]


def names_agree(backend: Backend, subject: Subject) -> None:
    device = backend.describe()
    assert (device.kind, device.index) == (backend.kind, backend.index)
    assert parse_name(backend.torch_device) == (device.kind, device.index)
    assert device.label == backend.torch_device


def description_holds_together(backend: Backend, subject: Subject) -> None:
    device = backend.describe()
    assert isinstance(device, Device)
    assert device.name
    assert (device.free_bytes is None) == (device.total_bytes is None)
    if device.free_bytes is not None and device.total_bytes is not None:
        assert 0 <= device.free_bytes <= device.total_bytes
    assert device.utilisation is None or 0 <= device.utilisation <= 1


def clock_never_goes_back(backend: Backend, subject: Subject) -> None:
    readings = [backend.now() for _ in range(1000)]
    assert readings == sorted(readings)
    backend.synchronize()
    assert backend.now() >= readings[-1]


def peak_is_what_was_held(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    backend.limit_memory(512 * MIB)
    backend.reset_peak()
    held = subject.hold(backend, 64 * MIB)
    del held
    backend.synchronize()
    _assert_about(backend.peak().allocated_bytes, 64 * MIB, subject)


def peak_grows_with_what_is_held(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    backend.limit_memory(512 * MIB)
    held = []
    for count in (1, 2, 3):
        backend.reset_peak()
        held.append(subject.hold(backend, 64 * MIB))
        _assert_about(backend.peak().allocated_bytes, count * 64 * MIB, subject)


def peak_is_never_negative(backend: Backend, subject: Subject) -> None:
    held = subject.hold(backend, 64 * MIB)
    backend.limit_memory(512 * MIB)
    del held
    backend.release()
    backend.reset_peak()
    peak = backend.peak()
    assert peak.allocated_bytes is None or peak.allocated_bytes >= 0
    assert peak.reserved_bytes is None or peak.reserved_bytes >= (peak.allocated_bytes or 0)


def reset_forgets_the_past(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    backend.limit_memory(512 * MIB)
    backend.reset_peak()
    held = subject.hold(backend, 64 * MIB)
    backend.peak()
    del held
    backend.reset_peak()
    subject.hold(backend, MIB)
    _assert_about(backend.peak().allocated_bytes, MIB, subject, at_least=False)


def model_made_before_the_limit_counts(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    model = subject.hold(backend, 64 * MIB)
    backend.limit_memory(256 * MIB, held_bytes=64 * MIB)
    backend.reset_peak()
    _assert_about(backend.peak().allocated_bytes, 64 * MIB, subject)
    assert _fails_for_memory(backend, subject, 224 * MIB)
    del model


def above_the_limit_is_out_of_memory(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    backend.limit_memory(256 * MIB)
    assert _fails_for_memory(backend, subject, 320 * MIB)
    assert not _fails_for_memory(backend, subject, 128 * MIB), "a smaller one has to fit after a failure"
    assert _fails_for_memory(backend, subject, 320 * MIB)


def limit_is_told(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    backend.limit_memory(256 * MIB)
    device = backend.describe()
    assert device.limit_bytes == 256 * MIB
    assert device.limit_source


def no_limit_takes_what_is_available(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    backend.limit_memory(None)
    device = backend.describe()
    if device.limit_bytes is not None:
        assert device.limit_bytes > 0
        assert device.limit_source
    assert not _fails_for_memory(backend, subject, 64 * MIB)


def limit_below_the_model_is_refused(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    model = subject.hold(backend, 64 * MIB)
    with pytest.raises(DeviceError) as refused:
        backend.limit_memory(32 * MIB, held_bytes=64 * MIB)
    assert refused.value.code == "nothing_fits"
    del model


def utilisation_is_a_share(backend: Backend, subject: Subject) -> None:
    backend.warm_up()
    backend.start_usage()
    for _ in range(20):
        subject.hold(backend, 4 * MIB)
    backend.synchronize()
    used = backend.utilisation()
    assert used is None or 0 <= used <= 1


CASES: tuple[Case, ...] = (
    names_agree,
    description_holds_together,
    clock_never_goes_back,
    peak_is_what_was_held,
    peak_grows_with_what_is_held,
    peak_is_never_negative,
    reset_forgets_the_past,
    model_made_before_the_limit_counts,
    above_the_limit_is_out_of_memory,
    limit_is_told,
    no_limit_takes_what_is_available,
    limit_below_the_model_is_refused,
    utilisation_is_a_share,
)


def _named(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.gpu) if SUBJECTS[name].may_be_absent else name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("name", [_named(name) for name in SUBJECTS])
def test_contract(name: str, case: Case) -> None:
    if SUBJECTS[name].may_be_absent and not _is_here(name):
        pytest.skip(f"no `{name}` device here")
    in_child(_run_case, name, case)


@pytest.mark.parametrize("name", [name for name in SUBJECTS if SUBJECTS[name].may_be_absent])
def test_absent_device_is_refused(name: str) -> None:
    if _is_here(name):
        pytest.skip(f"`{name}` is here")
    in_child(_open_absent, name)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has mapped for its data")
def test_on_a_cpu_what_is_mapped_and_never_touched_is_reserved() -> None:
    """The limit counts it: a thread's stack of 8 MiB takes 2% of 400 MiB before anything is computed."""
    in_child(_map_untouched)


def _map_untouched() -> None:
    backend = _open_cpu()
    backend.warm_up()
    backend.limit_memory(512 * MIB)
    backend.reset_peak()
    mapped = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    peak = backend.peak()
    mapped.close()
    assert peak.allocated_bytes is not None
    assert peak.reserved_bytes is not None
    assert 60 * MIB < peak.reserved_bytes - peak.allocated_bytes < 68 * MIB


def _open_absent(name: str) -> None:
    with pytest.raises(DeviceError) as refused:
        SUBJECTS[name].open()
    assert refused.value.code == "no_device"
    assert "`cpu`" in refused.value.facts[0]


def _is_here(kind: str) -> bool:
    from autobatch.devices.accelerator import available_accelerator

    found = available_accelerator()
    return found is not None and found.type == kind


def _run_case(name: str, case: Case) -> None:
    subject = SUBJECTS[name]
    case(subject.open(), subject)


def _assert_about(
    peak_bytes: int | None, held_bytes: int, subject: Subject, *, at_least: bool = True
) -> None:
    assert peak_bytes is not None
    assert peak_bytes < held_bytes + subject.slack_bytes, f"{peak_bytes:,} bytes"
    if at_least:
        assert peak_bytes >= held_bytes - subject.short_bytes, f"{peak_bytes:,} bytes"


def _fails_for_memory(backend: Backend, subject: Subject, size_bytes: int) -> bool:
    """True if holding that much is refused for want of memory, False if it works."""
    try:
        subject.hold(backend, size_bytes)
    except Exception as error:
        if classify(error) is not Cause.OUT_OF_MEMORY:
            raise
        return True
    return False
