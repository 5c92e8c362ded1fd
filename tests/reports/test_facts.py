"""Facts on the page: what is there is listed, what is not leaves no empty label."""

from __future__ import annotations

from dataclasses import replace

from autobatch.records.device import Device
from autobatch.records.workload import Workload
from autobatch.reports.html import facts
from tests.golden.test_text_report import CPU, ENVIRONMENT


def test_a_device_with_all_its_facts_and_with_none() -> None:
    assert [label for label, _ in facts.of_device(CPU)] == ["Device", "Memory", "Limit"]
    ((label, value),) = facts.of_device(Device(kind="cpu", index=0, name="<b>"))
    assert label == "Device"
    assert value == "<bdi>&lt;b&gt;</bdi><bdi> (cpu)</bdi>"


def test_a_workload_without_names_has_its_model_alone() -> None:
    bare = Workload(target="", model="Net", parameters=1, loss="", optimizer="")
    assert [label for label, _ in facts.of_workload(bare)] == ["Model"]
    named = replace(bare, target="a/b.py:net", loss="mse", dataset_size=3, inferred=("one", "two"))
    assert [label for label, _ in facts.of_workload(named)] == [
        *("Model", "Data", "Loss", "Target", "Inferred", "Inferred")
    ]


def test_a_long_path_may_be_broken_after_its_separators() -> None:
    workload = Workload(target="a/b.py:net", model="Net", parameters=1, loss="", optimizer="")
    (target,) = (value for label, value in facts.of_workload(workload) if label == "Target")
    assert target == "<code><bdi>a/<wbr>b.<wbr>py:<wbr>net</bdi></code>"


def test_an_environment_has_the_notes_on_its_device() -> None:
    pairs = facts.of_environment(ENVIRONMENT, replace(CPU, driver="550", notes=("shared",)))
    assert dict(pairs)["Driver"] == "<bdi>550</bdi>"
    assert dict(pairs)["Note"] == "<bdi>shared</bdi>"
    assert "Driver" not in dict(facts.of_environment(ENVIRONMENT, CPU))


def test_lists() -> None:
    pairs = facts.of_device(Device(kind="mps", index=0, name="M3"))
    assert facts.listed(pairs).startswith('<dl class="facts"><div><dt>Device</dt><dd>')
    assert facts.listed_in_rows(pairs).startswith('<dl class="said"><dt>Device</dt><dd>')


def test_a_general_name_of_a_model_gives_way_to_its_target() -> None:
    net = Workload(target="train.py:net", model="Sequential", parameters=1, loss="", optimizer="")
    assert facts.name_of(net) == "train.py:net"
    assert facts.name_of(replace(net, model="Net")) == "Net"
    assert facts.name_of(replace(net, target="")) == "Sequential"
