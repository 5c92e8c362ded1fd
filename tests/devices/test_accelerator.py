"""Shares of an accelerator's memory, and the devices of this process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.devices.accelerator import AcceleratorBackend, available_accelerator, device_names, fraction_of
from autobatch.records.errors import DeviceError

TIB = 1 << 40


@given(st.integers(1, TIB), st.integers(0, TIB))
def test_an_allocator_gets_its_cap_back_from_the_fraction(cap_bytes: int, rest_bytes: int) -> None:
    total_bytes = cap_bytes + rest_bytes
    assert int(fraction_of(cap_bytes, total_bytes) * total_bytes) == cap_bytes


@given(st.integers(1, TIB), st.integers(1, TIB))
def test_a_cap_above_the_device_is_the_whole_device(total_bytes: int, excess_bytes: int) -> None:
    assert fraction_of(total_bytes + excess_bytes, total_bytes) == 1.0


def test_the_names_are_those_of_the_accelerator_and_the_cpu() -> None:
    *numbered, last = device_names()
    accelerator = available_accelerator()
    assert last == "cpu"
    assert bool(numbered) is (accelerator is not None)
    for index, name in enumerate(numbered):
        assert accelerator is not None
        assert name == f"{accelerator.type}:{index}"


def test_an_absent_device_is_refused_with_the_present_ones() -> None:
    with pytest.raises(DeviceError) as refused:
        AcceleratorBackend("nonesuch", 3)
    assert refused.value.code == "no_device"
    assert "`nonesuch:3`" in refused.value.message
    assert "`cpu`" in refused.value.facts[0]
