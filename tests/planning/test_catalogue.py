"""Devices by name, by memory, and the current device."""

from __future__ import annotations

import pytest

from autobatch.planning.catalogue import CATALOGUE, of_current, parse_devices
from autobatch.records.device import Device
from autobatch.records.errors import UsageError

GIB = 1 << 30


def test_names_amounts_and_here() -> None:
    rtx, a100, amount, here = parse_devices("RTX 3090, a100_80gb ,24GiB,here,rtx3090")
    assert rtx is not None
    assert a100 is not None
    assert amount is not None
    assert (rtx.name, a100.name, amount.name) == ("rtx3090", "a100-80gb", "24GiB")
    assert here is None
    assert amount.total_bytes == 24 * GIB
    assert 0 < amount.room_bytes < amount.total_bytes


@pytest.mark.parametrize(
    ("names", "code", "hint"),
    [
        ("rtx3909", "unknown_device", "rtx3090"),
        ("toaster", "unknown_device", "24GiB"),
        ("", "unknown_device", "rtx3090"),
        (" , ", "unknown_device", "rtx3090"),
        ("24G", "bad_bytes", "24GiB"),
        ("24 apples", "bad_bytes", "unit"),
        ("rtx\x1b3090", "unknown_device", r"`rtx\x1b3090`"),
    ],
)
def test_an_unknown_device_is_refused_with_similar_or_valid_names(names: str, code: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_devices(names)
    assert raised.value.code == code
    assert hint in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_every_row_has_a_source_and_less_memory_than_its_name() -> None:
    assert len({device.name for device in CATALOGUE}) == len(CATALOGUE)
    assert list(CATALOGUE) == sorted(CATALOGUE, key=lambda device: device.total_bytes)
    for device in CATALOGUE:
        assert device.source.startswith("https://github.com/")
        assert device.room_bytes < device.total_bytes - GIB // 2


def test_the_current_device_has_its_available_memory() -> None:
    gpu = Device(
        kind="cuda", index=1, name="A", total_bytes=80 * GIB, free_bytes=60 * GIB, limit_bytes=50 * GIB
    )
    assert (of_current(gpu).name, of_current(gpu).total_bytes) == ("cuda:1", 50 * GIB)
    cpu = of_current(Device(kind="cpu", index=0, name="B", total_bytes=8 * GIB))
    assert cpu.room_bytes == 8 * GIB
