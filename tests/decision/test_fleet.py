"""Kinds of node, their prices, and how they compare."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.fleet import assemble, kind_of, pooled_critical_batch_size
from autobatch.decision.recommender import recommend
from autobatch.fleet import price_file
from autobatch.records.errors import DeviceError, UsageError
from autobatch.records.fleet import Fleet, NodeKind, NodeReport, Prices
from autobatch.records.recommendation import Recommendation
from tests import builders

GIB = 1 << 30
CPU_NODE = NodeReport(
    cpu="AMD  EPYC 7B13", cpus=16, memory_bytes=62 * GIB, gpus=(), autobatch="0.1.0", torch="2.13.0"
)
GPU_NODE = replace(CPU_NODE, gpus=("NVIDIA H100 80GB HBM3",) * 8)
FAST, SLOW = NodeKind(device="fast", devices=4), NodeKind(device="slow")


def answer(
    step_seconds: float, critical: float | None = 100.0, log_sd: float = 0.5, size: int = 64
) -> Recommendation:
    """The answer of a probe that timed `size` alone, a step taking `step_seconds`."""
    curve = builders.curve(
        [builders.trial(size, step_seconds)], workload=builders.workload(dataset_size=1000)
    )
    return recommend(curve, None if critical is None else builders.check(critical, log_sd))


def compared(prices: Prices | None = None) -> Fleet:
    probed = [(SLOW, 3, answer(0.30)), (FAST, 2, answer(0.10))]
    return assemble("model.py", probed, prices, version="0.1.0")


# Kinds


def test_a_node_without_gpus_is_told_by_processor_number_and_memory() -> None:
    kind = kind_of(CPU_NODE, cpus=16, gpus=0)
    assert kind.name == kind.device == "AMD EPYC 7B13, 16 CPUs, 62 GiB"
    assert kind.devices == 1
    assert kind_of(CPU_NODE, cpus=1, gpus=0).name == "AMD EPYC 7B13, 1 CPU, 62 GiB"


def test_a_node_with_gpus_is_told_by_their_name_and_number() -> None:
    eight, one = kind_of(GPU_NODE, cpus=16, gpus=8), kind_of(GPU_NODE, cpus=16, gpus=1)
    assert eight.name == "8 x NVIDIA H100 80GB HBM3"
    assert one.name == eight.device == one.device
    assert eight != one


def test_bytes_that_a_system_keeps_for_itself_make_no_kind() -> None:
    few = replace(CPU_NODE, memory_bytes=CPU_NODE.memory_bytes - (1 << 20))
    assert kind_of(few, cpus=16, gpus=0) == kind_of(CPU_NODE, cpus=16, gpus=0)
    other = replace(CPU_NODE, memory_bytes=31 * GIB)
    assert kind_of(other, cpus=16, gpus=0) != kind_of(CPU_NODE, cpus=16, gpus=0)


def test_gpus_of_several_kinds_and_those_that_tell_no_name() -> None:
    mixed = replace(CPU_NODE, gpus=("NVIDIA T4", "NVIDIA A10", "NVIDIA T4"))
    assert kind_of(mixed, cpus=8, gpus=3).name == "3 x NVIDIA A10 + NVIDIA T4"
    assert kind_of(CPU_NODE, cpus=8, gpus=2).name == "2 x GPU"


# Times and costs


def test_kinds_compare_by_the_time_to_the_same_loss() -> None:
    fleet = compared()
    assert [(one.kind, one.nodes, one.devices) for one in fleet.members] == [
        ("4 x fast", 2, 4),
        ("slow", 3, 1),
    ]
    assert [one.relative_time for one in fleet.members] == [1.0, pytest.approx(3.0)]
    assert fleet.critical_batch_size == pytest.approx(100.0)
    assert fleet.members[0].step_seconds == pytest.approx(0.1)
    assert {one.cost for one in fleet.members} == {None}


def test_a_larger_batch_has_to_pay_for_its_samples() -> None:
    """A kind that takes four times the batch in the time of two does not need half the time."""
    probed = [(SLOW, 1, answer(0.1, size=64)), (FAST, 1, answer(0.2, size=256))]
    fleet = assemble("model.py", probed, None, version="0.1.0")
    times = {one.kind: one.relative_time for one in fleet.members}
    ratio = (1 + 100 / 256) * 0.2 / ((1 + 100 / 64) * 0.1)
    assert ratio > 1
    assert times == {"slow": 1.0, "4 x fast": pytest.approx(ratio)}


def test_a_device_costs_its_share_of_the_node_for_as_long_as_it_takes() -> None:
    fleet = compared(Prices(currency="EUR", per_hour={"4 x fast": 20.0, "slow": 0.5}))
    assert [one.cost for one in fleet.members] == [pytest.approx(5.0), pytest.approx(1.5)]
    assert fleet.currency == "EUR"
    assert fleet.warnings == ()


def test_a_kind_without_a_price_is_told() -> None:
    fleet = compared(Prices(currency="EUR", per_hour={"slow": 0.5, "another": 3.0}))
    assert [one.cost for one in fleet.members] == [None, pytest.approx(1.5)]
    assert fleet.warnings == ("no price is given for `4 x fast`",)


def test_a_failure_is_a_row_and_comes_last() -> None:
    failure = DeviceError("batch size 1 does not fit", code="nothing_fits", facts=("24 GiB", "more"))
    fleet = assemble("model.py", [(FAST, 1, failure), (SLOW, 2, answer(0.3))], None, version="0.1.0")
    ok, failed = fleet.members
    assert (ok.kind, ok.relative_time) == ("slow", 1.0)
    assert (failed.answer, failed.detail) == (None, "batch size 1 does not fit: 24 GiB")
    assert failed.relative_time is failed.samples_per_second is None


def test_without_any_check_kinds_are_sorted_by_throughput() -> None:
    probed = [(SLOW, 3, answer(0.30, None)), (FAST, 2, answer(0.10, None))]
    fleet = assemble("model.py", probed, Prices(currency="EUR", per_hour={"slow": 1.0}), version="0.1.0")
    assert [one.kind for one in fleet.members] == ["4 x fast", "slow"]
    assert {(one.relative_time, one.cost) for one in fleet.members} == {(None, None)}
    assert fleet.critical_batch_size is None


@given(st.lists(st.tuples(st.floats(1.0, 1e5), st.floats(0.1, 2.0)), min_size=1, max_size=6))
def test_the_critical_batch_size_lies_between_those_of_the_checks(
    found: list[tuple[float, float]],
) -> None:
    answers = [answer(0.1, critical, log_sd) for critical, log_sd in found]
    pooled = pooled_critical_batch_size(answers)
    assert pooled is not None
    lowest, highest = min(found)[0], max(found)[0]
    assert lowest * (1 - 1e-9) <= pooled <= highest * (1 + 1e-9)
    assert pooled_critical_batch_size([*reversed(answers)]) == pytest.approx(pooled)


def test_a_surer_check_counts_for_more() -> None:
    pooled = pooled_critical_batch_size([answer(0.1, 100.0, 0.5), answer(0.1, 400.0, 1.0)])
    assert pooled == pytest.approx(exp((4 * log(100) + log(400)) / 5))
    assert pooled_critical_batch_size([answer(0.1, None)]) is None


# The file of prices

TOML = 'currency = "EUR"\n\n[per_hour]\n"8 x NVIDIA H100 80GB HBM3" = 30\n"AMD EPYC, 16 CPUs, 62 GiB" = 0.8\n'
PRICES = {"8 x NVIDIA H100 80GB HBM3": 30.0, "AMD EPYC, 16 CPUs, 62 GiB": 0.8}


def test_prices_are_read_from_toml_and_from_json(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(TOML, encoding="utf-8")
    (tmp_path / "prices.json").write_text(json.dumps({"currency": "EUR", "per_hour": PRICES}))
    for name in ("prices.toml", "prices.json"):
        found = price_file.load(str(tmp_path / name))
        assert (found.currency, found.per_hour) == ("EUR", PRICES)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "no `currency`"),
        ("currency = 3\n[per_hour]\na = 1", "no `currency`"),
        ('currency = "EUR"', "no prices under `per_hour`"),
        ('currency = "EUR"\nper_hour = 3', "no prices under `per_hour`"),
        ('currency = "EUR"\n[per_hour]\na = -1', "the price of `a` is -1"),
        ('currency = "EUR"\n[per_hour]\na = true', "the price of `a` is True"),
        ('currency = "EUR"\n[per_hour]\na = nan', "the price of `a` is nan"),
        ('currency = "EUR"\n[per_hour]\na = inf', "the price of `a` is inf"),
        ('currency = "EUR"\n[per_hour]\na = "1"', "the price of `a` is '1'"),
        ("currency = EUR", "line 1"),
    ],
)
def test_what_is_no_price_list_is_an_error(text: str, fact: str) -> None:
    with pytest.raises(UsageError) as raised:
        price_file.parse(text, "prices.toml")
    assert raised.value.code == "bad_prices"
    assert fact in raised.value.facts[0]
    assert "per_hour" in raised.value.hint


@pytest.mark.parametrize("text", ["[1]", "{", "null", '{"currency": "EUR", "per_hour": []}', "[" * 5000])
def test_what_is_no_price_list_in_json_is_an_error_too(text: str) -> None:
    with pytest.raises(UsageError, match="not a file of prices"):
        price_file.parse(text, "prices.json")


def test_a_file_of_prices_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'currency = "\xe9"')
    with (tmp_path / "large.toml").open("wb") as large:
        large.truncate(2 << 20)
    for name, fact in (
        ("nowhere.toml", "there is no such file"),
        ("", "there is no such file"),
        ("latin.toml", "utf-8"),
        ("large.toml", "more than 1,048,576 bytes"),
    ):
        with pytest.raises(UsageError) as raised:
            price_file.load(str(tmp_path / name))
        assert fact in raised.value.facts[0]
