"""How the CUDA backend joins what torch says and what the driver says, without a GPU.

torch's own functions are replaced, in the case's own process, by ones that answer as on a machine
where CUDA_VISIBLE_DEVICES=1 makes the driver's second GPU torch's `cuda:0`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]

GIB = 2**30

MACHINE = f"""
driver 580.12
gpu
name NVIDIA GeForce RTX 3060
uuid GPU-0001
pci 00000000:01:00.0
total {12 * GIB}
gpu
name NVIDIA H100 80GB HBM3
uuid GPU-0002
pci 00000000:41:00.0
total {80 * GIB}
used {19 * GIB}
utilisation 40
process 1 {18 * GIB}
"""

TORCH = f"""
import torch
from types import SimpleNamespace
from autobatch.records.errors import DeviceError

GIB = 2**30
fractions = []
properties = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", uuid="0002", pci_domain_id=0, pci_bus_id=0x41, pci_device_id=0
)
torch.accelerator.current_accelerator = lambda check_available=False: torch.device("cuda")
torch.accelerator.is_available = lambda: True
torch.accelerator.device_count = lambda: 1
torch.accelerator.memory_allocated = lambda index: {GIB // 2}
torch.accelerator.memory_reserved = lambda index: {GIB}
torch.cuda.get_device_name = lambda index: properties.name
torch.cuda.get_device_properties = lambda index: properties
torch.cuda.mem_get_info = lambda index: ({61 * GIB}, {80 * GIB})
torch.cuda.memory_reserved = lambda index: {GIB}
torch.cuda.set_per_process_memory_fraction = lambda fraction, index: fractions.append(fraction)

from autobatch.devices.cuda import CudaBackend
backend = CudaBackend(0)

def refusal(call):
    try:
        call()
    except DeviceError as error:
        return [error.code, *error.facts]
"""


def test_the_driver_is_asked_about_the_gpu_that_torch_means(run: Run) -> None:
    device = run(MACHINE, TORCH + "answer(backend.describe())")
    assert (device["kind"], device["index"], device["uuid"]) == ("cuda", 0, "0002")
    assert (device["total_bytes"], device["free_bytes"]) == (80 * GIB, 61 * GIB)
    assert (device["driver"], device["utilisation"]) == ("580.12", 0.4)
    assert [one["pid"] for one in device["memory_users"]] == [1]
    assert device["notes"] == []


def test_this_process_is_not_among_the_holders(run: Run) -> None:
    case = f"""{TORCH}
set_state({MACHINE!r} + f"process {{os.getpid()}} 1000\\n")
answer([one.pid for one in backend.describe().memory_users])
"""
    assert run(MACHINE, case) == [1]


def test_the_pci_id_leads_to_the_same_gpu(run: Run) -> None:
    case = f'{TORCH}properties.uuid = "of a slice"\nanswer(backend.describe())'
    assert [one["pid"] for one in run(MACHINE, case)["memory_users"]] == [1]


def test_under_mig_only_the_figures_of_torch_count(run: Run) -> None:
    device = run(f"{MACHINE}mig 1\n", TORCH + "answer(backend.describe())")
    assert (device["utilisation"], device["memory_users"], device["driver"]) == (None, [], "580.12")
    assert device["notes"] == ["MIG is on: utilisation is unknown"]


def test_without_the_library_torch_alone_describes_the_gpu(run_without_library: Run) -> None:
    device = run_without_library("", TORCH + "answer(backend.describe())")
    assert (device["name"], device["free_bytes"]) == ("NVIDIA H100 80GB HBM3", 61 * GIB)
    [note] = device["notes"]
    assert note.startswith("utilisation and other processes are unknown: ")


def test_amd_gpus_are_not_looked_for_in_nvidias_library(run: Run) -> None:
    case = f"""{TORCH}
torch.version.hip = "7.1"
backend.start_usage()
device = backend.describe()
answer([device.driver, device.memory_users, device.notes, backend.utilisation()])
"""
    assert run(MACHINE, case) == [None, [], [], None]


@pytest.mark.parametrize(
    ("asked", "limit", "by_option"),
    [("None", 61.5, False), ("20 * GIB", 20, True), ("70 * GIB", 61.5, False)],
)
def test_the_allocator_is_capped_at_what_was_asked_or_is_there(
    run: Run, asked: str, limit: float, by_option: bool
) -> None:
    """61 GiB are free; the allocator holds one already, half of which was the worker's before."""
    case = f"""{TORCH}
backend.limit_memory({asked})
device = backend.describe()
answer([fractions, device.limit_bytes / GIB, "--memory-limit" in device.limit_source])
"""
    assert run(MACHINE, case) == [[pytest.approx((limit + 0.5) / 80)], limit, by_option]


def test_a_gpu_too_full_to_start_on_names_who_holds_it(run: Run) -> None:
    case = f"""{TORCH}
def full(index):
    raise RuntimeError("CUDA error: out of memory\\nand much advice")
torch.cuda.mem_get_info = full
answer(refusal(backend.describe))
"""
    code, reason, holder = run(MACHINE, case)
    assert (code, reason) == ("device_unusable", "CUDA error: out of memory")
    assert holder.startswith("18.0 GiB is held by pid 1 (`")


def test_usage_is_that_of_the_gpu_that_torch_means(run: Run) -> None:
    case = TORCH + "backend.start_usage()\nanswer([backend.utilisation(), backend.utilisation()])"
    assert run(MACHINE, case) == [pytest.approx(0.4)] * 2
