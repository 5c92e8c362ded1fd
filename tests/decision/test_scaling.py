"""What more devices are predicted to do: by the law and the communication that was measured."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.constants import FARTHEST_PREDICTION
from autobatch.decision.critical_batch import relative_time
from autobatch.decision.scaling import over_ranks, per_rank, predict, share_of_dataset
from autobatch.decision.step_time import StepTimeLaw, fit_step_time
from autobatch.records.check import Check, CheckStatus, NoisePoint
from autobatch.records.scaling import Scaling
from autobatch.records.trial import Communication
from autobatch.records.workload import Workload

MOST_DEVICES = 2 * FARTHEST_PREDICTION
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
LARGE = Workload(target="t", model="m", parameters=1, loss="l", optimizer="SGD", dataset_size=10**9)


def law(fixed: float = 0.01, each: float = 0.0001) -> StepTimeLaw:
    return fit_step_time(list(SIZES), [[fixed + each * size] for size in SIZES])


def predicted(
    critical: float = 256.0, seconds: float = 0.001, ranks: int = 2, workload: Workload = LARGE
) -> Scaling:
    communication = Communication(batch_size=32, step_seconds=0.0132 + seconds, alone_seconds=0.0132)
    found = predict(SIZES, 32, critical, law(0.01 + seconds), ranks, communication, workload)
    assert found is not None
    return found


def test_the_useful_number_is_where_time_is_shortest() -> None:
    found = predicted()
    assert found.useful_devices is not None

    def seconds(devices: int) -> float:
        steps = {size: 0.01 + 0.0001 * size + 0.001 * (devices - 1) for size in SIZES}
        return min((1 + 256 / (devices * size)) * step for size, step in steps.items())

    assert found.useful_devices == min(range(1, MOST_DEVICES), key=seconds)
    for row in found.counts:
        if row.devices != 2:
            chosen = (1 + 256 / (2 * 32)) * (0.01 + 0.0032 + 0.001)
            assert row.relative_time == pytest.approx(seconds(row.devices) / chosen, rel=0.01)


def test_the_parts_get_smaller_as_devices_become_more() -> None:
    sizes = [row.batch_size for row in predicted(seconds=1e-5).counts if row.devices != 2]
    assert all(after <= before for before, after in pairwise(sizes))
    assert sizes[-1] < sizes[0]


def test_dearer_communication_makes_fewer_devices_useful() -> None:
    useful = [
        predicted(seconds=seconds).useful_devices or MOST_DEVICES for seconds in (1e-5, 1e-4, 1e-3, 1e-2)
    ]
    assert useful == sorted(useful, reverse=True)
    assert useful[0] > useful[-1]


def test_without_any_communication_no_number_is_too_large() -> None:
    found = predicted(seconds=0.0)
    assert found.useful_devices is None
    times = [row.relative_time for row in found.counts]
    assert times == sorted(times, reverse=True)


def test_no_global_batch_is_larger_than_the_data_set() -> None:
    small = Workload(target="t", model="m", parameters=1, loss="l", optimizer="SGD", dataset_size=100)
    found = predicted(seconds=0.0, workload=small)
    assert all(row.global_batch_size <= 100 for row in found.counts)
    assert found.useful_devices is None


def test_nothing_is_predicted_of_one_rank_or_without_a_critical_batch_size() -> None:
    communication = Communication(batch_size=32, step_seconds=0.02, alone_seconds=0.01)
    assert predict(SIZES, 32, 256.0, law(), 1, communication, LARGE) is None
    assert predict(SIZES, 32, float("inf"), law(), 2, communication, LARGE) is None


def test_noise_makes_no_communication_negative() -> None:
    assert Communication(batch_size=1, step_seconds=0.9, alone_seconds=1.0).seconds == 0.0


@given(st.floats(1, 1e6), st.integers(1, 4096), st.sampled_from(SIZES))
def test_one_ranks_part_of_the_critical_batch_size_gives_the_time_of_all(
    critical: float, ranks: int, size: int
) -> None:
    of_all = (1 + critical / (ranks * size)) * law().step_seconds_at(size)
    assert relative_time(size, critical / ranks, law()) == pytest.approx(of_all)


@given(st.floats(1, 1e6), st.none() | st.floats(1, 1e6), st.integers(1, 4096))
def test_a_check_comes_back_from_one_ranks_part(critical: float, high: float | None, ranks: int) -> None:
    check = Check(
        status=CheckStatus.NOISE_ONLY,
        noise_scale=critical / 2,
        critical_batch_size=critical,
        interval=(critical / 3, high),
        log_sd=0.5,
        noise_points=(NoisePoint(samples_seen=640, batch_size=critical / 2, low=critical / 4),),
    )
    (point,) = per_rank(check, ranks).noise_points
    parts = [ranks * part for part in (point.samples_seen, point.batch_size, point.low)]
    assert parts == pytest.approx([640, critical / 2, critical / 4]), "each rank sees its part of the samples"
    again = over_ranks(per_rank(check, ranks), ranks)
    assert again.critical_batch_size == pytest.approx(critical)
    assert again.noise_points[0].samples_seen == pytest.approx(640)
    assert again.noise_points[0].low == pytest.approx(critical / 4)
    assert again.interval is not None
    assert again.interval[0] == pytest.approx(critical / 3)
    assert again.interval[1] == (None if high is None else pytest.approx(high))
    empty = Check(status=CheckStatus.NOT_RUN)
    assert per_rank(empty, ranks) == empty


@given(st.integers(1, 10**9), st.integers(1, 4096))
def test_shares_cover_the_data_set(size: int, ranks: int) -> None:
    share = share_of_dataset(size, ranks)
    assert share is not None
    assert share * ranks >= size > (share - 1) * ranks
    assert share_of_dataset(None, ranks) is None
