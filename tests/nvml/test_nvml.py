"""autobatch.devices.nvml through the real pynvml, against a stand-in for the driver's library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

# run(state, case, **environment) -> what the case answered; the fixtures are in conftest.
Run = Callable[..., Any]

GIB = 2**30

SMALL = f"""
gpu
name NVIDIA GeForce RTX 3060
uuid GPU-5a0d0000-0000-0000-0000-000000000001
pci 00000000:01:00.0
total {12 * GIB}
used {1 * GIB}
reserved {GIB // 4}
utilisation 5
"""

LARGE = f"""
gpu
name NVIDIA H100 80GB HBM3
uuid GPU-1a46e000-0000-0000-0000-000000000002
pci 00000000:41:00.0
total {80 * GIB}
used {19 * GIB}
reserved {GIB // 2}
utilisation 40
mig 0
"""

SMALL_UUID = "5a0d0000-0000-0000-0000-000000000001"
LARGE_UUID = "1a46e000-0000-0000-0000-000000000002"
MACHINE = "driver 580.12\n" + SMALL + LARGE
READ_LARGE = f'answer(nvml.read("{LARGE_UUID}"))'

NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST = 3, 4, 9, 15


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[bytes]]:
    """A living process, in the place of one that holds GPU memory."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n")


def pid_of_nobody() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_reading_carries_all_that_the_driver_says(run: Run) -> None:
    assert run(MACHINE, READ_LARGE) == {
        "index": 1,
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": f"GPU-{LARGE_UUID}",
        "pci_bus_id": "00000000:41:00.0",
        "driver": "580.12",
        "total_bytes": 80 * GIB,
        "free_bytes": 80 * GIB - 19 * GIB - GIB // 2,
        "used_bytes": 19 * GIB,
        "utilisation": 0.4,
        "memory_users": [],
        "mig": False,
        "notes": [],
    }


def test_all_gpus_come_in_pci_order(run: Run) -> None:
    readings = run(MACHINE, "answer(nvml.read_all())")
    assert [(one["index"], one["pci_bus_id"]) for one in readings] == [
        (0, "00000000:01:00.0"),
        (1, "00000000:41:00.0"),
    ]


@pytest.mark.parametrize("prefix", ["", "GPU-"])
@pytest.mark.parametrize("visible", [None, "1", "1,0", f"GPU-{LARGE_UUID}"])
def test_the_uuid_finds_the_gpu_whatever_cuda_numbers_it(run: Run, prefix: str, visible: str | None) -> None:
    """CUDA would call the large GPU 0 in all of these, as it does the fastest when all are visible."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    case = f'answer(nvml.read("{prefix}{LARGE_UUID}"))'
    assert run(MACHINE, case, **environment)["total_bytes"] == 80 * GIB


@pytest.mark.parametrize("uuid", ["None", '"MIG-5a0d"', '"another"'])
@pytest.mark.parametrize("pci", ["00000000:41:00.0", "0000:41:00.0"])
def test_the_pci_id_finds_the_gpu_that_the_uuid_does_not(run: Run, uuid: str, pci: str) -> None:
    reading = run(MACHINE, f'answer(nvml.read({uuid}, "{pci}"))')
    assert reading["uuid"] == f"GPU-{LARGE_UUID}"


@pytest.mark.parametrize("keys", ['"another"', '"another", "0000:7f:00.0"', 'None, "nonsense"', "None"])
def test_nothing_comes_back_for_a_gpu_that_is_not_there(run: Run, keys: str) -> None:
    assert run(MACHINE, f"answer(nvml.read({keys}))") is None


def test_holders_have_names(run: Run, holder: subprocess.Popen[bytes]) -> None:
    gone = pid_of_nobody()
    state = f"{MACHINE}process {gone} {GIB}\nprocess {holder.pid} {18 * GIB}\n"
    assert run(state, READ_LARGE)["memory_users"] == [
        {"pid": holder.pid, "name": psutil.Process(holder.pid).name(), "memory_bytes": 18 * GIB},
        {"pid": gone, "name": "?", "memory_bytes": GIB},
    ]


def test_a_process_in_two_lists_is_one_holder(run: Run) -> None:
    """The driver lists a program that computes and draws twice, each time with all its memory."""
    state = f"{MACHINE}process 1 {GIB}\ndesktop 1 {GIB}\ndesktop {os.getpid()} {2 * GIB}\n"
    memory_users = run(state, READ_LARGE)["memory_users"]
    assert [(one["pid"], one["memory_bytes"]) for one in memory_users] == [(os.getpid(), 2 * GIB), (1, GIB)]


def test_memory_of_a_process_may_be_unknown(run: Run) -> None:
    """As on Windows, where the system and not the driver hands out GPU memory."""
    state = f"{MACHINE}process 1 {2**64 - 1}\n"
    assert run(state, READ_LARGE)["memory_users"][0]["memory_bytes"] is None


def test_each_reading_is_fresh_and_leaves_nothing_open(run: Run) -> None:
    later = MACHINE.replace(f"used {19 * GIB}", f"used {61 * GIB}")
    case = f"""
before = nvml.read("{LARGE_UUID}")
set_state({later!r})
after = nvml.read("{LARGE_UUID}")
answer([before.used_bytes, after.used_bytes, sessions()])
"""
    assert run(MACHINE, case) == [19 * GIB, 61 * GIB, 0]


def test_a_lost_gpu_is_a_reading_with_one_note(run: Run) -> None:
    reading = run(f"{MACHINE}refuse all {GPU_IS_LOST}\n", READ_LARGE)
    assert reading["total_bytes"] is reading["utilisation"] is reading["name"] is None
    assert reading["driver"] == "580.12"
    [note] = reading["notes"]
    assert note.endswith("GPU is lost")


def test_a_gpu_lost_already_at_the_look_up_is_told_from_one_that_is_not_there(run: Run) -> None:
    state = f"{MACHINE}refuse lookup {GPU_IS_LOST}\n"
    reading = run(state, READ_LARGE)
    assert (reading["uuid"], reading["name"]) == (LARGE_UUID, None)
    assert reading["notes"] == ["the driver can't reach this GPU: GPU is lost"]


def test_a_lost_gpu_does_not_hide_the_others(run: Run) -> None:
    state = f"{MACHINE}refuse lookup {GPU_IS_LOST}\n"
    small, large = run(state, "answer(nvml.read_all())")
    assert (small["name"], small["notes"]) == ("NVIDIA GeForce RTX 3060", [])
    assert (large["index"], large["name"]) == (1, None)


def test_a_lost_neighbour_that_spoils_look_ups_by_uuid_leaves_the_pci_id(run: Run) -> None:
    state = f"{MACHINE}gpu\nname lost\nrefuse uuid-lookup {GPU_IS_LOST}\n"
    reading = run(state, f'answer(nvml.read("{LARGE_UUID}", "00000000:41:00.0"))')
    assert (reading["name"], reading["notes"]) == ("NVIDIA H100 80GB HBM3", [])


@pytest.mark.parametrize(
    ("question", "code", "field", "note"),
    [
        ("utilisation", NOT_SUPPORTED, "utilisation", "no utilisation: Not Supported"),
        ("memory", NOT_SUPPORTED, "total_bytes", "no memory: Not Supported"),
        ("processes", NO_PERMISSION, "memory_users", "no processes: Insufficient Permissions"),
        ("name", GPU_IS_LOST, "name", "no name: GPU is lost"),
        ("mig", NO_PERMISSION, "mig", "no MIG mode: Insufficient Permissions"),
    ],
)
def test_what_the_driver_refuses_costs_only_itself(
    run: Run, question: str, code: int, field: str, note: str
) -> None:
    reading = run(f"{MACHINE}refuse {question} {code}\n", READ_LARGE)
    assert not reading[field]
    assert reading["notes"] == [note]
    assert reading["pci_bus_id"] == "00000000:41:00.0"


def test_a_gpu_without_mig_needs_no_note(run: Run) -> None:
    reading = run(MACHINE, f'answer(nvml.read("{SMALL_UUID}"))')
    assert (reading["mig"], reading["notes"]) == (False, [])


def test_mig_is_noted(run: Run) -> None:
    reading = run(MACHINE.replace("mig 0", "mig 1"), READ_LARGE)
    assert reading["mig"] is True
    assert reading["notes"] == ["MIG is on: these figures are those of the whole GPU, not of a slice"]


def test_an_old_driver_counts_its_own_memory_as_used(run_with: Callable[..., Run]) -> None:
    reading = run_with("-DWITHOUT_MEMORY_V2")(MACHINE, READ_LARGE)
    assert reading["used_bytes"] == 19 * GIB + GIB // 2
    assert reading["free_bytes"] == 80 * GIB - reading["used_bytes"]
    assert reading["notes"] == ["used memory includes the driver's reserve"]


def test_an_old_driver_lists_its_processes_too(run_with: Callable[..., Run]) -> None:
    reading = run_with("-DWITHOUT_PROCESSES_V3")(f"{MACHINE}process 1 {GIB}\n", READ_LARGE)
    assert [one["pid"] for one in reading["memory_users"]] == [1]
    assert reading["notes"] == []


UNAVAILABLE = f'answer([nvml.why_unavailable(), nvml.read_all(), nvml.read("{LARGE_UUID}")])'


def test_without_the_library_there_is_a_reason(run_without_library: Run) -> None:
    reason, everything, one = run_without_library("", UNAVAILABLE)
    assert reason == "NVIDIA's management library can't be used: NVML Shared Library Not Found"
    assert (everything, one) == ([], None)


def test_without_the_driver_there_is_a_reason(run: Run) -> None:
    reason, everything, one = run(f"init {DRIVER_NOT_LOADED}\n{MACHINE}", UNAVAILABLE)
    assert reason == "NVIDIA's management library can't be used: Driver Not Loaded"
    assert (everything, one) == ([], None)


def test_without_the_package_there_is_a_reason(run: Run) -> None:
    reason, everything, one = run(MACHINE, 'sys.modules["pynvml"] = None\n' + UNAVAILABLE)
    assert reason == "the package `nvidia-ml-py` is not installed"
    assert (everything, one) == ([], None)


def test_with_everything_there_is_no_reason(run: Run) -> None:
    assert run(MACHINE, "answer(nvml.why_unavailable())") is None


def test_reading_gpus_leaves_torch_alone(run_without_torch: Run) -> None:
    assert run_without_torch(MACHINE, 'nvml.read_all()\nanswer("torch" in sys.modules)') is False


# The first line imports pynvml, which on a busy machine could take as long as the samples.
SAMPLER = f"""
nvml.why_unavailable()
sampler = nvml.UsageSampler("{LARGE_UUID}", interval_seconds=0.02)
sampler.start()
time.sleep(0.3)
"""


def test_usage_is_the_mean_between_start_and_stop(run: Run) -> None:
    busier = MACHINE.replace("utilisation 40", "utilisation 80")
    case = f"""{SAMPLER}
set_state({busier!r})
time.sleep(0.3)
answer([sampler.stop(), sampler.stop(), sessions()])
"""
    mean, again, sessions = run(MACHINE, case)
    assert 0.4 < mean < 0.8
    assert again == mean
    assert sessions == 0


def test_usage_starts_over(run: Run) -> None:
    busier = MACHINE.replace("utilisation 40", "utilisation 80")
    case = f"""{SAMPLER}
set_state({busier!r})
sampler.start()
time.sleep(0.1)
answer(sampler.stop())
"""
    assert run(MACHINE, case) == pytest.approx(0.8)


def test_usage_of_a_very_short_stretch_is_still_measured(run: Run) -> None:
    case = f"""
sampler = nvml.UsageSampler("{LARGE_UUID}", interval_seconds=30.0)
sampler.start()
answer(sampler.stop())
"""
    assert run(MACHINE, case) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "state",
    [
        MACHINE.replace("utilisation 40", ""),
        f"{MACHINE}refuse all {GPU_IS_LOST}\n",
        f"{MACHINE}refuse lookup {GPU_IS_LOST}\n",
        f"init {DRIVER_NOT_LOADED}\n{MACHINE}",
        SMALL,
    ],
    ids=["not supported", "lost", "lost at look-up", "no driver", "not there"],
)
def test_usage_that_can_not_be_read_is_none(run: Run, state: str) -> None:
    assert run(state, f"{SAMPLER}answer(sampler.stop())") is None


def test_usage_without_a_start_is_none(run: Run) -> None:
    assert run(MACHINE, f'answer(nvml.UsageSampler("{LARGE_UUID}").stop())') is None
