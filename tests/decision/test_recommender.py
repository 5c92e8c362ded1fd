"""The recommender is pure: curves in, one measured size out."""

from __future__ import annotations

from dataclasses import replace
from math import log2, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.recommender import recommend
from autobatch.records.check import Check, CheckStatus
from autobatch.records.device import Device
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload

SIZES = tuple(2**power for power in range(13))


def curve(fixed_seconds: float, sample_seconds: float, ceiling: int = 4096, **workload: object) -> Curve:
    """A curve of exactly t(B) = a + b B."""
    trials = []
    for size in SIZES:
        step = fixed_seconds + sample_seconds * size
        ok = size <= ceiling
        trials.append(
            Trial(
                batch_size=size,
                outcome=Outcome.OK if ok else Outcome.OUT_OF_MEMORY,
                step_seconds=(step,) * 3 if ok else (),
                samples_per_second=size / step if ok else None,
            )
        )
    return Curve(
        trials=tuple(trials),
        ceiling=Ceiling(batch_size=ceiling, limited_by=LimitedBy.MEMORY, verified=True),
        workload=replace(
            Workload(target="t", model="M", parameters=1, loss="l", optimizer="SGD"),
            **workload,  # type: ignore[arg-type]
        ),
        device=Device(kind="cpu", index=0, name="cpu"),
    )


def found(critical: float, log_sd: float = 0.01) -> Check:
    return Check(
        status=CheckStatus.NOISE_ONLY,
        # Without trainings nothing below this one is chosen.
        batch_size=1,
        noise_scale=critical / 2,
        critical_batch_size=critical,
        interval=(critical / 2, critical * 2),
        log_sd=log_sd,
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(2.0, 2000.0), st.floats(2.0, 2000.0), st.sampled_from([16, 256, 4096]))
def test_the_shortest_time_is_found_up_to_the_ceiling(hardware: float, critical: float, ceiling: int) -> None:
    """B* = sqrt(B_hw B_crit): property 6, on powers of two."""
    measured = curve(hardware * 1e-5, 1e-5, ceiling)
    chosen = recommend(measured, found(critical)).batch_size

    def time(size: float) -> float:
        return (1 + critical / size) * (hardware + size)

    best = min(time(size) for size in SIZES if size <= ceiling)
    assert chosen <= ceiling
    assert time(chosen) <= 1.03 * best
    if 2 < sqrt(hardware * critical) < ceiling / 2:
        assert abs(log2(chosen / sqrt(hardware * critical))) <= 1


def test_the_present_size_wins_a_tie() -> None:
    assert recommend(curve(64e-5, 1e-5), found(90.0)).batch_size == 64
    answer = recommend(curve(64e-5, 1e-5, batch_size=128), found(90.0))
    assert answer.batch_size == 128
    assert "your present size is within 10%" in answer.why
    assert recommend(curve(64e-5, 1e-5, batch_size=4096), found(90.0)).batch_size == 64


def test_without_a_check_the_knee_is_taken() -> None:
    answer = recommend(curve(64e-5, 1e-5))
    assert answer.batch_size == 1024
    assert "within 5% of the best throughput" in answer.why
    assert answer.learning_rate is None


def test_a_check_without_an_answer_falls_back_to_the_knee() -> None:
    answer = recommend(
        curve(64e-5, 1e-5), Check(status=CheckStatus.NOT_RUN, detail="too little of the budget was left")
    )
    assert answer.batch_size == 1024
    assert answer.check is not None


@pytest.mark.parametrize(("optimizer", "power"), [("SGD", 1.0), ("AdamW", 0.5)])
def test_the_learning_rate_follows_the_noise_rule(optimizer: str, power: float) -> None:
    measured = curve(1.0, 1e-5, 512, batch_size=32, learning_rate=0.1, optimizer=optimizer)
    answer = recommend(measured, found(1000.0))
    assert answer.batch_size == 512
    assert answer.learning_rate == pytest.approx(0.1 * ((1 + 1000 / 32) / (1 + 1000 / 512)) ** power)


def test_an_unknown_optimizer_gets_no_learning_rate() -> None:
    measured = curve(1.0, 1e-5, 512, batch_size=32, learning_rate=0.1, optimizer="Sophia")
    assert recommend(measured, found(1000.0)).learning_rate is None


def test_candidates_are_relative_to_the_answer() -> None:
    answer = recommend(curve(64e-5, 1e-5), found(64.0))
    assert answer.check is not None
    times = {one.batch_size: one.relative_time for one in answer.check.candidates}
    assert times[answer.batch_size] == pytest.approx(1.0)
    assert min(times.values()) >= 0.999
    assert set(times) == set(SIZES)


def test_objectives() -> None:
    measured = curve(64e-5, 1e-5, 1024)
    assert recommend(measured, None, Limits(objective=Objective.MEMORY)).batch_size == 1024
    assert recommend(measured, None, Limits(objective=Objective.THROUGHPUT)).batch_size == 1024


def test_a_rough_figure_of_an_untimed_size_does_not_win() -> None:
    """A size tried for memory alone has one lucky step; timed sizes have medians of rounds."""
    measured = curve(64e-5, 1e-5, 1024)
    lucky = Trial(batch_size=768, outcome=Outcome.OK, step_seconds=(1e-6,), samples_per_second=7.68e8)
    assert recommend(replace(measured, trials=(*measured.trials, lucky))).batch_size != 768


@given(st.integers(64, 100_000))
def test_a_target_is_met_exactly_by_measured_divisors_or_said_not_to_be(target: int) -> None:
    limits = Limits(global_batch=target)
    answer = recommend(curve(64e-5, 1e-5, 1024), None, limits)
    assert answer.batch_size in SIZES
    assert answer.global_batch_size == answer.batch_size * answer.accumulation_steps
    assert answer.global_batch_size == target or any("not met" in text for text in answer.warnings)
