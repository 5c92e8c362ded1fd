"""A recorded device is read again without torch, or not at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from autobatch.devices import host
from autobatch.devices.recorded import read_again
from autobatch.records.device import Device

CPU = Device(kind="cpu", index=0, name="another", total_bytes=1, threads=3, notes=("a note",))


def test_a_cpu_is_read_as_it_is_now() -> None:
    again = read_again(CPU, 0.5)
    assert again is not None
    assert again.name == host.cpu_name()
    assert again.total_bytes == host.read_memory().total_bytes
    assert (again.threads, again.notes) == (3, ("a note",))
    assert again.limit_bytes is not None
    assert again.free_bytes is not None
    assert 0 < again.limit_bytes < again.free_bytes


@pytest.mark.parametrize("kind", ["mps", "xpu", "cuda"])
def test_a_device_that_takes_torch_is_not_read(kind: str) -> None:
    assert read_again(replace(CPU, kind=kind), 1.0) is None


def test_reading_imports_no_torch() -> None:
    source = (
        "import sys\n"
        "from autobatch.devices.recorded import read_again\n"
        "from autobatch.records.device import Device\n"
        "read_again(Device(kind='cpu', index=0, name=''), 1.0)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)
