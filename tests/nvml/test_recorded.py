"""A recorded GPU is read again by the driver, without torch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nvml.test_nvml import GIB, LARGE_UUID, MACHINE, Run

READ = """
from dataclasses import replace
from autobatch.devices.recorded import read_again
from autobatch.records.device import Device
recorded = Device(
    kind="cuda", index=0, name="H100", total_bytes=80 << 30, uuid="{uuid}", driver="580.12",
    free_bytes={free}, limit_bytes=40 << 30,
)
answer(read_again(recorded, 0.5))
assert "torch" not in sys.modules
"""


def read(run: Run, free_bytes: int, uuid: str = LARGE_UUID, state: str = MACHINE) -> Any:
    return run(state, READ.format(uuid=uuid, free=free_bytes))


def test_memory_that_was_freed_raises_the_limit(run_without_torch: Run) -> None:
    """The driver says 60.5 GiB: 80 less 19 in use and half of one in reserve."""
    again = read(run_without_torch, 50 * GIB)
    assert again["free_bytes"] >= 60 * GIB
    assert again["limit_bytes"] == 40 * GIB + (again["free_bytes"] - 50 * GIB) // 2
    assert again["driver"] == "580.12"


@pytest.mark.parametrize(
    ("free_bytes", "uuid", "state"),
    [
        (70 * GIB, LARGE_UUID, MACHINE),
        (50 * GIB, "99999999-0000-0000-0000-000000000009", MACHINE),
        (50 * GIB, LARGE_UUID, MACHINE.replace("mig 0", "mig 1")),
    ],
    ids=["others hold memory", "another GPU", "MIG"],
)
def test_a_gpu_that_torch_has_to_read_is_none(
    run_without_torch: Run, free_bytes: int, uuid: str, state: str
) -> None:
    assert read(run_without_torch, free_bytes, uuid, state) is None
