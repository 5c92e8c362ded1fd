"""The schedule restated for a new batch size, and the warnings that follow from an answer."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.warnings import restated_schedule, warnings_about
from autobatch.records.check import Check, CheckStatus, Training
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Candidate, Recommendation, SameEpochs
from autobatch.records.workload import Decay, StepCount, Workload
from tests import builders

MOMENTUM = Decay(name="momentum", value=0.9)
BETA2 = Decay(name="beta2", value=0.999)


def workload(**fields: Any) -> Workload:
    return builders.workload(**{"batch_size": 32, **fields})


def answer(
    size: int, about: Workload | None = None, check: Check | None = None, **fields: Any
) -> Recommendation:
    return builders.recommendation(size, workload=about or workload(), check=check, **fields)


def check(critical: float = 100.0, **fields: Any) -> Check:
    return builders.check(critical, **{"batch_size": 32, **fields})


def trained(size: int, minimum: float = 100.0, critical: float = 100.0) -> Training:
    """Reaches a loss of 1 after S_min (1 + B_crit / B) steps, and ends there."""
    steps = round(minimum * (1 + critical / size))
    return builders.training(
        size, steps, lambda at: ((at / steps) ** -0.5,), step_seconds=0.1, learning_rate_factor=1.5
    )


def compared(minimum: float) -> Check:
    return check(trainings=(trained(32, minimum), trained(256, minimum)), status=CheckStatus.PASSED)


# The noise alone


def test_a_smaller_size_by_the_noise_alone_gets_a_warning_and_what_it_would_take() -> None:
    smaller = Candidate(batch_size=4, relative_time=0.4)
    found = answer(32, check=check(), candidates=(smaller, Candidate(batch_size=32, relative_time=1.0)))
    assert [text for text in warnings_about(found) if "noise alone favours 4" in text and "--budget" in text]


@pytest.mark.parametrize(
    "candidate",
    [Candidate(batch_size=4, relative_time=0.96), Candidate(batch_size=256, relative_time=0.4)],
)
def test_no_smaller_size_gets_a_warning_that_is_tied_or_larger(candidate: Candidate) -> None:
    assert not [
        text
        for text in warnings_about(answer(32, check=check(), candidates=(candidate,)))
        if "noise alone" in text
    ]


@pytest.mark.parametrize("asked", [Limits(objective=Objective.MEMORY), Limits(global_batch=64)])
def test_a_size_that_was_asked_for_gets_no_warning_by_the_noise(asked: Limits) -> None:
    found = answer(32, check=check(), candidates=(Candidate(batch_size=4, relative_time=0.4),))
    assert not [text for text in warnings_about(replace(found, limits=asked)) if "noise alone" in text]


def test_after_trainings_the_noise_is_not_alone() -> None:
    smaller = Candidate(batch_size=4, relative_time=0.4)
    found = answer(32, check=check(status=CheckStatus.PASSED), candidates=(smaller,))
    assert not [text for text in warnings_about(found) if "noise alone" in text]


# The schedule


@settings(max_examples=100, deadline=None)
@given(steps=st.integers(1, 10**7), own=st.integers(1, 4096), size=st.integers(1, 4096))
def test_a_schedule_keeps_its_samples(steps: int, own: int, size: int) -> None:
    about = workload(batch_size=own, schedule=(StepCount(name="warmup_steps", steps=steps),))
    found = restated_schedule(about, size)
    if own == size:
        assert found == ()
        return
    (one,) = found
    assert one.name == "warmup_steps"
    assert one.steps >= 1
    # To the step, of which there is one at least.
    assert abs(one.steps * size - steps * own) <= size / 2 or one.steps == 1


def test_every_part_of_a_schedule_is_restated() -> None:
    parts = tuple(StepCount(name=name, steps=n) for name, n in (("warmup_steps", 500), ("max_steps", 20_000)))
    assert [(one.name, one.steps) for one in restated_schedule(workload(schedule=parts), 128)] == [
        ("warmup_steps", 125),
        ("max_steps", 5000),
    ]


def test_without_a_current_size_or_a_schedule_nothing_is_restated() -> None:
    parts = (StepCount(name="warmup_steps", steps=500),)
    assert restated_schedule(workload(batch_size=None, schedule=parts), 128) == ()
    assert restated_schedule(workload(schedule=()), 128) == ()


# Few steps


def test_few_steps_an_epoch_give_a_warning() -> None:
    (text,) = warnings_about(answer(128, workload(dataset_size=1000)))
    assert text == "at 128 an epoch has only 8 steps: train for more epochs, or use a smaller size"
    assert warnings_about(answer(100, workload(dataset_size=1000))) == []
    assert warnings_about(answer(4096, workload(dataset_size=None))) == []


def test_a_decision_at_the_same_epochs_says_more_than_the_number_of_steps() -> None:
    row = SameEpochs(
        batch_size=128,
        harm=1.01,
        harm_low=1.0,
        harm_high=1.02,
        speedup=1.5,
        interval=(1.4, 1.6),
        safe=True,
    )
    judged = replace(answer(128, workload(dataset_size=1000)), same_epochs=(row,))
    assert warnings_about(judged) == []


def test_without_epochs_or_without_trainings_only_the_epoch_counts() -> None:
    assert warnings_about(answer(256, workload(dataset_size=5000, epochs=None), compared(300))) == []
    assert warnings_about(answer(256, workload(dataset_size=5000, epochs=1.0), check())) == []
    (text,) = warnings_about(answer(1024, workload(dataset_size=5000, epochs=1.0), check()))
    assert text.startswith("at 1,024 an epoch has only 5 steps")


def test_trainings_that_did_not_fall_leave_the_epoch() -> None:
    flat = tuple(
        replace(one, evaluations=tuple(replace(e, losses=(1.0,)) for e in one.evaluations))
        for one in compared(300).trainings
    )
    found = warnings_about(answer(1024, workload(dataset_size=5000, epochs=1.0), check(trainings=flat)))
    assert [text.partition(":")[0] for text in found] == ["at 1,024 an epoch has only 5 steps"]


# Decays


@pytest.mark.parametrize(("own", "size"), [(32, 255), (255, 32), (32, 32), (100, 13)])
def test_decays_are_left_alone_below_eight_times(own: int, size: int) -> None:
    assert warnings_about(answer(size, workload(batch_size=own, decays=(MOMENTUM, BETA2)))) == []


def test_decays_of_eight_times_as_many_samples_give_a_warning() -> None:
    found = warnings_about(answer(256, workload(decays=(MOMENTUM, BETA2))))
    assert found == [
        "optional: set momentum=0.43 at 256, which keeps the half-life of 0.9 in samples",
        "optional: set beta2=0.992 at 256, which keeps the half-life of 0.999 in samples",
    ]


def test_decays_of_an_eighth_of_the_samples_give_a_warning() -> None:
    (text,) = warnings_about(answer(4, workload(decays=(MOMENTUM,))))
    assert text == "optional: set momentum=0.987 at 4, which keeps the half-life of 0.9 in samples"


@pytest.mark.parametrize("decay", [BETA2, Decay(name="beta2", value=0.9999)])
def test_the_decay_advised_is_one_that_decays(decay: Decay) -> None:
    (text,) = warnings_about(answer(4, workload(decays=(decay,))))
    advised = float(re.findall(r"set beta2=([\d.]+) at", text)[0])
    assert 0 < advised < 1
    assert math.log(advised) / math.log(decay.value) == pytest.approx(1 / 8, rel=0.05)


def test_without_a_current_size_decays_are_left_alone() -> None:
    assert warnings_about(answer(4096, workload(batch_size=None, decays=(MOMENTUM,)))) == []


# The learning rate


def test_a_learning_rate_by_the_rule_gets_no_warning() -> None:
    assert warnings_about(answer(128, check=check())) == []


def test_a_rate_that_the_user_s_code_derives_is_not_scaled_twice() -> None:
    about = workload(learning_rate_power=1.0, learning_rate=0.1, batch_size=32)
    measured = replace(answer(128, about, check()), learning_rate=0.2)
    (text,) = warnings_about(measured)
    assert text == (
        "your code derives the learning rate from the batch size, 0.4 at 128: "
        "set it so that 0.2 comes out, and don't scale it twice"
    )
    assert warnings_about(replace(answer(32, about, check()), learning_rate=0.1)) == []


def test_an_optimizer_without_a_rule_gives_a_warning() -> None:
    about = workload(optimizer="Sophia")
    (text,) = warnings_about(answer(128, about, check()))
    assert "the learning rate of Sophia follows no known rule" in text
    (same,) = warnings_about(answer(128, about, compared(100)))
    assert same == text


def test_at_the_checks_own_size_the_learning_rate_stays() -> None:
    assert warnings_about(answer(32, workload(optimizer="Sophia"), check())) == []


def test_without_a_check_nothing_is_said_of_the_learning_rate() -> None:
    about = workload(optimizer="Sophia")
    assert warnings_about(answer(128, about, None)) == []
    texts = warnings_about(answer(128, about, Check(status=CheckStatus.NOT_RUN)))
    assert not any("learning rate" in text for text in texts)


def test_without_a_current_size_its_meaning_gives_a_warning() -> None:
    (text,) = warnings_about(answer(128, workload(batch_size=None), check()))
    assert "is taken to belong to 32" in text
    assert "`batch_size`" in text


def test_a_rule_that_leaves_the_learning_rate_gets_no_warning() -> None:
    """Adam's is flat from the critical batch size on: here it is below both sizes."""
    about = workload(optimizer="AdamW")
    found = replace(compared(100), critical_batch_size=20.0)
    assert warnings_about(answer(128, about, found)) == []


# Inputs and machines


def test_random_inputs_give_a_warning() -> None:
    (text,) = warnings_about(answer(128, workload(synthetic=True)))
    assert text.startswith("memory and speed only")


@pytest.mark.parametrize(("high", "count"), [(149.0, 0), (151.0, 1)])
def test_an_unsteady_step_time_gives_a_warning(high: float, count: int) -> None:
    found = warnings_about(
        answer(128, trials=(builders.trial(128, samples_per_second_interval=(100.0, high)),))
    )
    assert len(found) == count
    assert all("vary a lot: rerun on an idle machine" in text for text in found)


@pytest.mark.parametrize(("rounds", "factor", "named"), [(3, 28.0, True), (3, 1.2, False), (5, 28.0, False)])
def test_a_timing_that_few_rounds_set_apart_from_the_other_sizes_gets_a_warning(
    rounds: int, factor: float, named: bool
) -> None:
    trials = tuple(
        builders.trial(size, 2e-3 * (factor if size == 32 else 1), rounds=rounds)
        for size in (16, 32, 64, 128, 256)
    )
    text = "a step at batch size 32 took 28x as long as other sizes predict"
    safe = SameEpochs(
        batch_size=64, harm=1.0, harm_low=0.9, harm_high=1.1, speedup=5.0, interval=(0.9, 28.0), safe=True
    )
    for size, rows in ((32, (safe,)), (256, ())):
        warnings = warnings_about(answer(size, trials=trials, same_epochs=rows))
        assert any(each.startswith(text) and "idle machine" in each for each in warnings) == named


def test_a_timing_of_a_size_that_is_no_answer_gets_no_warning() -> None:
    trials = tuple(builders.trial(size, 0.1 if size == 16 else 2e-3) for size in (16, 32, 64, 128, 256))
    assert not [each for each in warnings_about(answer(256, trials=trials)) if "other sizes predict" in each]


def test_a_good_answer_gets_no_warning() -> None:
    about = workload(dataset_size=50_000, epochs=90.0, decays=(MOMENTUM,), batch_size=64)
    assert warnings_about(answer(256, about, compared(100))) == []


# Sizes that no training has shown to be good


@pytest.mark.parametrize(
    ("size", "status", "limits", "warned"),
    [
        (2048, CheckStatus.NOT_RUN, Limits(), True),
        (32, CheckStatus.NOT_RUN, Limits(), False),
        (16, CheckStatus.NOT_RUN, Limits(), False),
        (2048, CheckStatus.NOISE_ONLY, Limits(), False),
        (2048, CheckStatus.NOT_RUN, Limits(objective=Objective.THROUGHPUT), False),
    ],
)
def test_a_larger_size_without_a_check_is_named(
    size: int, status: CheckStatus, limits: Limits, warned: bool
) -> None:
    found = answer(size, check=Check(status=status, detail="your `step` keeps its loss"), limits=limits)
    assert any(text.startswith("no training was compared") for text in warnings_about(found)) == warned
