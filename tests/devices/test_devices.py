"""The table of backends: every line names a backend of its kind, and every kind has valid names."""

from __future__ import annotations

from importlib import import_module

import pytest

from autobatch.devices import BACKENDS, open_all, open_backend, parse_name
from autobatch.devices.accelerator import device_names
from autobatch.devices.base import Backend
from autobatch.records.errors import DeviceError, UsageError


@pytest.mark.parametrize("kind", BACKENDS)
def test_every_line_of_the_table_names_a_backend_of_its_kind(kind: str) -> None:
    entry = BACKENDS[kind]
    backend_class = getattr(import_module(entry.module), entry.class_name)
    assert issubclass(backend_class, Backend)
    if any(name.partition(":")[0] == kind for name in device_names()):
        assert open_backend(kind).kind == kind
    else:
        with pytest.raises(DeviceError) as refused:
            open_backend(kind)
        assert f"`{kind}:0`" in refused.value.message


@pytest.mark.parametrize(
    ("name", "parsed"),
    [("cpu", ("cpu", 0)), ("cpu:0", ("cpu", 0)), ("cuda:3", ("cuda", 3)), ("xpu:1", ("xpu", 1))],
)
def test_a_name_is_a_kind_and_an_index(name: str, parsed: tuple[str, int]) -> None:
    assert parse_name(name) == parsed


@pytest.mark.parametrize("name", ["cpu:1", "mps:1", "cuda:x", "gpu 0", "", ":0", "cuda:-1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_name(name)
    assert refused.value.code == "bad_device"


def test_the_cpu_is_always_the_last_device() -> None:
    backends = open_all()
    assert backends[-1].torch_device == "cpu"
    assert len(backends) == len(device_names())
