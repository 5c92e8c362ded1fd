"""The whole climb on a simulated device: the right ceiling, the right plateau, nothing repeated."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.constants import VERIFY_STEPS
from autobatch.decision.recommender import recommend
from autobatch.decision.trial_set import TrialSet
from autobatch.measurement.budget import Budget
from autobatch.measurement.climb import Climb, Observer
from autobatch.measurement.confirmation import confirm
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Curve, LimitedBy, Outcome, Trial
from autobatch.reports.text import terminal
from autobatch.worker.step_timing import Measurer
from tests.measurement.climbs import climb, forecast_machine
from tests.simulated import (
    MIB,
    Machine,
    SimulatedBackend,
    SimulatedEngine,
    SimulatedFirstState,
    SimulatedTrainer,
)

pytestmark = pytest.mark.usefixtures("quick_collections")


def answer(machine: Machine, limits: Limits) -> Recommendation:
    return recommend(climb(machine, limits)[0], None, limits)


def saturating(best: int) -> Machine:
    """Throughput doubles up to `best` samples, then stays."""
    return Machine(step_seconds=lambda size: 0.01 * max(1.0, size / best), dataset_size=1 << 20)


def test_memory_stops_the_climb_at_the_exact_ceiling() -> None:
    machine = Machine(total_bytes=1000 * MIB, fixed_bytes=100 * MIB, sample_bytes=7 * MIB)
    curve, _ = climb(machine)
    assert curve.ceiling.batch_size == machine.true_ceiling == 128
    assert curve.ceiling.limited_by is LimitedBy.MEMORY
    assert curve.ceiling.verified


def test_a_plateau_ends_the_climb_and_the_knee_is_recommended() -> None:
    """ludwig-ai/ludwig 2843, 2846: maximize throughput, steadily."""
    found = answer(saturating(64), Limits(budget_seconds=1e6))
    assert found.ceiling.limited_by is LimitedBy.PLATEAU
    assert found.batch_size == 64
    assert max(trial.batch_size for trial in found.trials) == 256


def test_ceiling_climbs_past_a_plateau() -> None:
    machine = saturating(16)
    curve, _ = climb(machine, Limits(budget_seconds=1e6, ceiling=True))
    assert curve.ceiling.batch_size == machine.true_ceiling


def test_a_dip_at_small_sizes_is_no_plateau() -> None:
    """Threads start to cost at 2 and 4, and pay from 8 on (as measured on a shared machine)."""
    dip = {1: 0.002, 2: 0.013, 4: 0.013}
    machine = Machine(step_seconds=lambda size: dip.get(size, 0.013 * max(1, size / 128)), dataset_size=4096)
    assert answer(machine, Limits(budget_seconds=1e6)).batch_size == 128


def test_a_dataset_smaller_than_the_batch_caps_the_search() -> None:
    """Lightning-AI/pytorch-lightning 3259: a search ended at 67,108,864 for a small data set."""
    curve, engine = climb(Machine(dataset_size=100))
    assert curve.ceiling.batch_size == 100
    assert curve.ceiling.limited_by is LimitedBy.DATASET
    assert max(engine.tries) == 100


def test_memory_is_that_of_the_largest_samples_and_speed_that_of_typical_ones() -> None:
    """Reported for tools that try one random batch, and run out of memory when the longest samples come
    together hours later (Lightning-AI/pytorch-lightning 20447, lhotse-speech/lhotse 231, OpenNMT/OpenNMT-tf
    806, ultralytics/ultralytics 17514).
    """
    typical = Machine(total_bytes=1000 * MIB, fixed_bytes=100 * MIB, sample_bytes=MIB, dataset_size=4096)
    ragged = replace(typical, largest_ratio=4.0)
    limits = Limits(budget_seconds=1e6, ceiling=True)
    curve, _ = climb(ragged, limits)
    assert curve.ceiling.batch_size == ragged.true_ceiling == 225 < typical.true_ceiling
    assert curve.workload.sizes == ragged.sizes
    for trial in curve.trials:
        if trial.step_seconds:
            typical_seconds = ragged.step_seconds(trial.batch_size)
            assert trial.step_seconds == pytest.approx([typical_seconds] * len(trial.step_seconds))
    untimed = [trial for trial in curve.trials if trial.ok and not trial.step_seconds]
    assert untimed, "the bisection tries sizes for memory alone"
    assert all(trial.samples_per_second is None and trial.steps_per_epoch for trial in untimed)
    assert recommend(curve, None, limits).chosen.samples_per_second is not None


@settings(max_examples=40, deadline=None)
@given(st.floats(1.0, 30.0), st.sampled_from(Objective), st.floats(2.0, 60.0), st.booleans())
def test_an_answer_on_samples_that_vary_stands_whatever_was_timed(
    ratio: float, objective: Objective, budget: float, ceiling: bool
) -> None:
    machine = Machine(largest_ratio=ratio, dataset_size=4096, current_batch_size=48)
    limits = Limits(objective=objective, budget_seconds=budget, ceiling=ceiling)
    found = answer(machine, limits)
    assert found.chosen.ok
    assert machine.bytes_at(found.batch_size, ratio) <= machine.total_bytes
    assert terminal.render(found)


def test_a_curve_without_any_time_still_has_an_answer() -> None:
    """A round that fails for memory on a CPU leaves a size that passed without a rate."""
    curve, _ = climb(Machine(dataset_size=64))
    trials = tuple(replace(t, step_seconds=(), samples_per_second=None) for t in curve.trials)
    for objective in Objective:
        found = recommend(replace(curve, trials=trials), None, Limits(objective=objective))
        assert found.batch_size == 64
        assert (found.step_time, found.tokens_per_second) == (None, None)


def speeding_up() -> Machine:
    """Three times as slow until 128 was tried: what was timed before says nothing of what came after."""
    seen = {0}

    def step_seconds(size: int) -> float:
        seen.add(size)
        return 0.01 * (1 + size / 256) * (1.0 if max(seen) >= 128 else 3.0)

    return Machine(step_seconds=step_seconds, dataset_size=4096)


@pytest.mark.parametrize(
    ("limits", "compare"),
    [
        (Limits(budget_seconds=1e6), True),
        (Limits(budget_seconds=1e6, check=False), False),
        (Limits(budget_seconds=1e6, objective=Objective.THROUGHPUT), False),
        # The climb leaves the time for three rounds of each.
        (Limits(budget_seconds=9.0), True),
    ],
)
def test_before_a_check_all_that_may_be_the_answer_is_timed_in_one_window(
    limits: Limits, compare: bool
) -> None:
    curve, _ = climb(speeding_up(), limits)
    seconds = {trial.batch_size: trial.step_seconds for trial in curve.trials}
    assert max(seconds) >= 512
    assert seconds[4] == pytest.approx([0.03 * (1 + 4 / 256)] * len(seconds[4]))
    slow = 1.0 if compare else 3.0
    for size in (8, 32, 64):
        assert seconds[size] == pytest.approx([slow * 0.01 * (1 + size / 256)] * len(seconds[size]))


def test_max_batch_is_tried_itself() -> None:
    curve, _ = climb(Machine(dataset_size=10**6), Limits(max_batch=100, budget_seconds=1e6))
    assert curve.ceiling.batch_size == 100
    assert curve.ceiling.limited_by is LimitedBy.MAX_BATCH


def test_multiples_only() -> None:
    machine = Machine(total_bytes=1000 * MIB, fixed_bytes=0, sample_bytes=7 * MIB)
    curve, engine = climb(machine, Limits(multiple_of=8, budget_seconds=1e6))
    assert curve.ceiling.batch_size == machine.true_ceiling // 8 * 8 == 136
    assert all(size % 8 == 0 for size in engine.tries)


def test_the_present_batch_size_is_measured_too() -> None:
    found = answer(
        Machine(dataset_size=1 << 16, current_batch_size=100), Limits(budget_seconds=1e6, ceiling=True)
    )
    assert any(trial.batch_size == 100 and trial.ok for trial in found.trials)


def test_a_floor_is_climbed_over() -> None:
    """BatchNorm refuses one sample; ultralytics 26224 read that as the ceiling."""
    machine = Machine(dataset_size=64, failures={1: "Expected more than 1 value per channel when training"})
    curve, _ = climb(machine)
    assert curve.ceiling.batch_size == 64
    assert curve.trials[0].outcome is Outcome.FAILED


def test_an_error_at_every_size_is_the_users() -> None:
    with pytest.raises(AutobatchError, match="fails at batch size 1") as caught:
        climb(Machine(dataset_size=64, failures=dict.fromkeys(range(65), "shapes cannot be multiplied")))
    assert caught.value.code == "step_fails"
    # The same error at the smallest and at the usual size is none of the size.
    assert [trial.batch_size for trial in caught.value.trials] == [1, 32]


def test_an_error_above_a_success_is_a_ceiling_with_its_cause() -> None:
    """salesforce/BLIP 101, facebookresearch/moco 99: a queue takes no batch larger than itself."""
    curve, _ = climb(Machine(failures=dict.fromkeys(range(16, 99), "index 777 is out of bounds")))
    assert curve.ceiling.batch_size == 15
    assert curve.ceiling.limited_by is LimitedBy.SIZE_LIMIT
    assert "index 777 is out of bounds" in curve.ceiling.detail
    assert any("from 16 on can't be trained" in warning for warning in curve.warnings)
    assert [trial.batch_size for trial in curve.trials if trial.ok][:4] == [1, 2, 4, 8]


def test_a_failure_between_successes_is_a_hole_and_named() -> None:
    machine = Machine(dataset_size=64, failures={16: "the kernel has no plan for 16 rows"})
    curve, _ = climb(machine)
    assert curve.ceiling.batch_size == 64
    assert "batch size 16 can't be trained, though smaller and larger ones can" in curve.warnings[0]
    assert "the kernel has no plan for 16 rows" in curve.warnings[0]


def test_a_hole_in_the_middle_of_the_search_for_the_ceiling_hides_nothing_above_it() -> None:
    """Odd sizes fail, so an exact ceiling is the largest even size that fits."""
    odd = dict.fromkeys(range(3, 4000, 2), "the batch must be even")
    machine = Machine(total_bytes=1000 * MIB, fixed_bytes=0, sample_bytes=3 * MIB, failures=odd)
    curve, _ = climb(machine, Limits(budget_seconds=1e6, objective=Objective.MEMORY))
    assert machine.true_ceiling == 333
    assert curve.ceiling.batch_size == 332


def test_sizes_that_are_no_multiple_are_no_floor() -> None:
    """pytorch-metric-learning 259: samples come in triples, which nobody has said."""
    broken = {size: "rows are left over" for size in range(1, 103) if size % 3}
    curve, _ = climb(Machine(dataset_size=102, current_batch_size=12, failures=broken))
    assert curve.ceiling.batch_size == 102
    (warning,) = [text for text in curve.warnings if "rows are left over" in text]
    assert "--multiple-of 6" in warning


def test_sizes_that_are_no_multiple_are_no_limit() -> None:
    """trl 2858: groups of eight, which nobody has said, and a data set that holds no multiple of them."""
    broken = {size: "groups are left over" for size in range(1, 301) if size % 8}
    curve, _ = climb(Machine(dataset_size=300, current_batch_size=16, failures=broken))
    (warning,) = [text for text in curve.warnings if "groups are left over" in text]
    assert "--multiple-of 8" in warning


@pytest.mark.parametrize("floor", [2, 3, 4, 5, 8])
def test_a_floor_is_named(floor: int) -> None:
    curve, _ = climb(Machine(dataset_size=64, smallest_trained=floor))
    smallest = min(trial.batch_size for trial in curve.trials if trial.ok)
    assert smallest // 2 < floor <= smallest
    assert f"batch sizes below {smallest} can't be trained" in curve.warnings[0]
    assert f"more than {smallest // 2} samples are needed" in curve.warnings[0]


def test_a_size_limit_is_named() -> None:
    """pytorch/pytorch 142228: kernels that fail above 65,535."""
    limit = "CUDA error: invalid configuration argument"
    curve, _ = climb(Machine(failures=dict.fromkeys(range(20, 65), limit)))
    assert curve.ceiling.batch_size == 19
    assert curve.ceiling.limited_by is LimitedBy.SIZE_LIMIT


def test_a_suspected_message_counts_as_memory_only_above_a_success() -> None:
    suspected = "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"
    curve, _ = climb(Machine(failures=dict.fromkeys(range(20, 65), suspected)))
    assert curve.ceiling.limited_by is LimitedBy.MEMORY
    with pytest.raises(AutobatchError, match="fails"):
        climb(Machine(failures=dict.fromkeys(range(65), suspected)))


def test_a_crash_is_tried_again_and_kept() -> None:
    curve, _ = climb(Machine(dataset_size=64, crashes={16: 1}))
    outcomes = [trial.outcome for trial in curve.trials if trial.batch_size == 16]
    assert outcomes == [Outcome.CRASHED, Outcome.OK]
    assert curve.ceiling.batch_size == 64
    assert any("died once" in text for text in curve.warnings)


def test_a_size_that_always_crashes_bounds_the_search() -> None:
    curve, _ = climb(Machine(dataset_size=64, crashes=dict.fromkeys(range(20, 65), 99)))
    assert curve.ceiling.batch_size == 19


def test_a_hang_bounds_the_search_without_bisection() -> None:
    curve, engine = climb(Machine(dataset_size=64, hangs={16}))
    assert curve.ceiling.batch_size == 8
    assert curve.ceiling.limited_by is LimitedBy.BUDGET
    assert engine.tries.count(16) == 1


def test_nothing_fits() -> None:
    """Lightning-AI/pytorch-lightning 3103, ultralytics 25739: the first size fails."""
    with pytest.raises(AutobatchError, match="batch size 1 does not fit") as caught:
        climb(Machine(total_bytes=10 * MIB, fixed_bytes=20 * MIB))
    assert caught.value.code == "nothing_fits"


def test_the_budget_ends_the_climb() -> None:
    machine = Machine(step_seconds=lambda size: 0.1 * math.sqrt(size))
    curve, engine = climb(machine, Limits(budget_seconds=20))
    assert curve.ceiling.limited_by is LimitedBy.BUDGET
    longest_step = machine.step_seconds(max(engine.tries))
    assert engine.busy_seconds <= 20 * 1.1 + longest_step


def test_a_global_batch_above_the_ceiling_is_accumulated() -> None:
    """huggingface/accelerate 3071: the effective batch changed silently."""
    machine = Machine(total_bytes=200 * MIB, fixed_bytes=0, sample_bytes=MIB)
    found = answer(machine, Limits(global_batch=1000, budget_seconds=1e6))
    assert found.batch_size * found.accumulation_steps == found.global_batch_size == 1000
    assert found.batch_size <= machine.true_ceiling


def test_a_global_batch_that_fits_is_taken_at_once() -> None:
    found = answer(Machine(dataset_size=4096), Limits(global_batch=96, budget_seconds=1e6))
    assert (found.batch_size, found.accumulation_steps) == (96, 1)


def test_an_interrupt_keeps_what_was_measured() -> None:
    class Stopper(Observer):
        def trying(self, batch_size: int) -> None:
            if batch_size == 16:
                raise KeyboardInterrupt

    climb = Climb(SimulatedEngine(Machine()), Limits(), Stopper())
    with pytest.raises(KeyboardInterrupt):
        climb.run()
    curve = climb.partial_curve()
    assert curve is not None
    assert [trial.batch_size for trial in curve.trials] == [1, 2, 4, 8]


machines = st.builds(
    Machine,
    total_bytes=st.integers(1, 4000).map(lambda mib: mib * MIB),
    fixed_bytes=st.integers(0, 200).map(lambda mib: mib * MIB),
    sample_bytes=st.integers(1, 64 * MIB),
    noise=st.sampled_from([0.0, 0.02, 0.3]),
    dataset_size=st.none() | st.integers(1, 100_000),
    current_batch_size=st.none() | st.integers(1, 1000),
    crashes=st.dictionaries(st.integers(1, 64), st.integers(1, 3), max_size=2),
    failures=st.dictionaries(st.integers(1, 200), st.just("no kernel for this size"), max_size=2),
    hangs=st.sets(st.integers(65, 500), max_size=1),
    smallest_trained=st.sampled_from([1, 1, 1, 2, 3, 6]),
    traced_share=st.none() | st.floats(0.3, 3.0) | st.just(1.0),
    heap_loss=st.sampled_from([0.0, 0.0, 0.1, 0.3]),
    seed=st.integers(0, 1000),
)
searches = st.builds(
    Limits,
    min_batch=st.integers(1, 16),
    max_batch=st.none() | st.integers(64, 5000),
    multiple_of=st.sampled_from([1, 1, 2, 8]),
    global_batch=st.none() | st.integers(64, 10_000),
    budget_seconds=st.sampled_from([5.0, 60.0, 1e6]),
    objective=st.sampled_from(list(Objective)),
    ceiling=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(machines, searches)
def test_any_climb_ends_and_its_answer_was_measured(machine: Machine, limits: Limits) -> None:
    engine = SimulatedEngine(machine)
    try:
        curve = Climb(engine, limits).run()
    except AutobatchError as error:
        if error.code in ("nothing_fits", "worker_died", "bad_limit", "trial_timeout"):
            return
        if error.code == "step_fails" and (machine.failures or machine.smallest_trained > 1):
            return
        raise
    found = recommend(curve, None, limits)
    passed = {trial.batch_size for trial in curve.trials if trial.ok}
    assert found.batch_size in passed
    assert curve.ceiling.batch_size in passed
    assert found.batch_size <= curve.ceiling.batch_size <= machine.true_ceiling
    assert found.global_batch_size == found.batch_size * found.accumulation_steps * found.world_size
    assert len(engine.tries) <= 60 + 12 * len(machine.crashes)
    by_memory = curve.ceiling.limited_by is LimitedBy.MEMORY
    if by_memory and not (machine.crashes or machine.failures or machine.heap_loss):
        assert machine.true_ceiling - curve.ceiling.batch_size < limits.multiple_of
    budget = limits.budget_seconds
    assert engine.busy_seconds <= budget * 1.1 + 20 * max(map(machine.step_seconds, engine.tries))
    failed = [trial.batch_size for trial in curve.trials if trial.outcome is Outcome.OUT_OF_MEMORY]
    assert len(failed) == len(set(failed)), "no size above the known limit is tried twice"


@pytest.mark.parametrize("best", [8, 32, 128])
def test_noise_seldom_moves_the_knee_by_more_than_one_size(best: int) -> None:
    """5% noise in each step, as much as the tolerance: fixed seeds, since chance can't be ruled out."""
    moved = []
    for seed in range(60):
        machine = saturating(best)
        machine.noise, machine.seed = 0.05, seed
        limits = Limits(budget_seconds=1e6, objective=Objective.TIME_TO_LOSS)
        moved.append(abs(math.log2(answer(machine, limits).batch_size / best)))
    assert sum(distance > 1 for distance in moved) <= 3
    assert sum(distance > 0 for distance in moved) <= 30


def failed_sizes(curve: Curve) -> list[int]:
    return [trial.batch_size for trial in curve.trials if not trial.ok]


def test_a_traced_step_leads_straight_to_the_ceiling() -> None:
    """huggingface/accelerate 3650 and 4160: 26 attempts where 5 would do."""
    machine = forecast_machine()
    curve, engine = climb(machine, Limits(budget_seconds=1e6, objective=Objective.MEMORY))
    assert curve.ceiling.batch_size == machine.true_ceiling == 1214
    assert failed_sizes(curve) == [1215]
    assert engine.traces == 1
    assert len(engine.tries) <= 4


def test_doubling_never_jumps_over_what_is_predicted_to_fit() -> None:
    machine = forecast_machine()
    curve, engine = climb(machine, Limits(budget_seconds=1e6))
    assert curve.ceiling.batch_size == machine.true_ceiling
    assert failed_sizes(curve) == [1215]
    assert engine.traces == 1


def test_a_climb_far_from_the_limit_traces_nothing() -> None:
    _, engine = climb(saturating(16))
    assert engine.traces == 0


@pytest.mark.parametrize("share", [None, 0.4, 0.8, 1.25, 3.0])
def test_a_misleading_trace_costs_trials_and_not_the_truth(share: float | None) -> None:
    machine = forecast_machine(traced_share=share)
    for objective in (Objective.MEMORY, Objective.TIME):
        curve, engine = climb(machine, Limits(budget_seconds=1e6, objective=objective))
        assert curve.ceiling.batch_size == machine.true_ceiling
        assert len(engine.tries) <= 30


def heap_machine(seed: int) -> Machine:
    """A CPU whose processes each lose another share of their memory, up to 15% of it."""
    draw = random.Random(seed)
    total_bytes = draw.choice([300, 1000, 4000, 16_000]) * MIB
    return Machine(
        total_bytes=total_bytes,
        fixed_bytes=int(total_bytes * draw.uniform(0.01, 0.3)),
        sample_bytes=int(total_bytes / 10 ** draw.uniform(1.2, 3.5)),
        heap_loss=draw.uniform(0.01, 0.15),
        traced_share=draw.choice([None, 0.6, 0.9, 1.0]),
        seed=seed,
    )


def test_a_ceiling_on_a_heap_survives_in_fresh_processes_and_wastes_little() -> None:
    survivors, shares = 0, []
    for seed in range(200):
        machine, draw = heap_machine(seed), random.Random(f"fresh processes {seed}")
        curve, engine = climb(machine, Limits(budget_seconds=1e6, objective=Objective.MEMORY))
        assert curve.ceiling.verified
        assert len(engine.tries) <= 20
        size = curve.ceiling.batch_size
        losses = [machine.heap_loss * draw.random() for _ in range(5)]
        survivors += all(machine.bytes_at(size) / (1 - loss) <= machine.total_bytes for loss in losses)
        shares.append(size / machine.true_ceiling)
    assert survivors >= 0.95 * 200
    assert fmean(shares) >= 0.75


@pytest.mark.parametrize("budget_seconds", [2.0, 3.0, 4.0, 5.0, 6.0, 8.0])
def test_on_a_heap_a_ceiling_that_was_not_verified_in_time_leaves_room_too(budget_seconds: float) -> None:
    """Without it, 0 of 8 fresh processes survived ten steps at the largest size that had passed three."""
    machine = forecast_machine(heap_loss=0.05, step_seconds=lambda size: 0.0002 * size + 0.01)
    curve, _ = climb(machine, Limits(budget_seconds=budget_seconds, objective=Objective.MEMORY))
    reached = next(t for t in reversed(curve.trials) if t.ok and t.batch_size == curve.ceiling.batch_size)
    assert reached.peak_bytes is not None
    assert machine.total_bytes is not None
    assert reached.peak_bytes <= 0.95 * machine.total_bytes


def test_a_fraction_of_the_memory_leaves_the_rest() -> None:
    """Lightning 20447, 20614: people ask for a margin."""
    machine = forecast_machine()
    engine = SimulatedEngine(machine, Limits(memory_fraction=0.5))
    curve = Climb(engine, Limits(budget_seconds=1e6, memory_fraction=0.5)).run()
    assert curve.ceiling.batch_size == (4500 - 500) // 7


def test_a_collapse_of_the_throughput_is_the_ceiling() -> None:
    """mosaicml/composer 1998; drivers that go on in main memory, at 295 s a step."""
    machine = forecast_machine(
        step_seconds=lambda size: 0.001 * size * (50 if size > 700 else 1) + 0.01, dataset_size=1 << 20
    )
    curve, _ = climb(machine, Limits(budget_seconds=1e6, ceiling=True))
    assert 350 < curve.ceiling.batch_size <= 700
    assert any("collapsed" in trial.detail for trial in curve.trials)


def test_a_verification_loads_a_batch_for_each_step_as_training_does() -> None:
    loads = []

    class Trainer(SimulatedTrainer):
        def load_largest(self, batch_size: int, seed: int) -> int:
            loads.append(seed)
            return super().load_largest(batch_size, seed)

    backend = SimulatedBackend(Machine())
    trainer = Trainer(backend, lambda size: None)
    measurer = Measurer(backend, trainer, 0, SimulatedFirstState(backend, trainer))
    measurer.try_out(8, 60.0)
    assert len(loads) == 1
    measurer.try_out(8, 60.0, VERIFY_STEPS)
    assert len(set(loads[1:])) == VERIFY_STEPS


def test_trials_count_what_was_really_executed() -> None:
    """Lightning-AI/pytorch-lightning 21903: trials that ran nothing passed."""
    trials: tuple[Trial, ...] = climb(Machine(dataset_size=64))[0].trials
    for trial in trials:
        assert trial.samples == trial.optimizer_steps * trial.batch_size
        assert trial.optimizer_steps >= 3


def test_the_current_size_is_measured_first_and_whatever_the_budget() -> None:
    """Project-MONAI/MONAI 1574: a sample takes 0.33 s, and the time was over before the current size."""
    machine = Machine(load_seconds=0.33, dataset_size=400, current_batch_size=8)
    curve, engine = climb(machine, Limits(budget_seconds=2.0))
    assert engine.tries[0] == 8
    assert [trial.batch_size for trial in curve.trials if trial.ok] == [8]
    assert curve.ceiling.limited_by is LimitedBy.BUDGET
    assert recommend(curve, None, Limits()).batch_size == 8


def test_from_the_current_size_the_climb_goes_up_and_then_down() -> None:
    _, engine = climb(saturating_from(50))
    assert list(dict.fromkeys(engine.tries)) == [50, 100, 200, 32, 1]
    _, engine = climb(saturating_from(50), Limits(budget_seconds=1e6, objective=Objective.TIME_TO_LOSS))
    assert list(dict.fromkeys(engine.tries)) == [50, 100, 200, 32, 16, 8, 4, 2, 1]


def saturating_from(current: int) -> Machine:
    return replace(saturating(current), current_batch_size=current)


def test_a_current_size_that_does_not_fit_is_in_the_table_and_the_sizes_below_are_timed() -> None:
    machine = Machine(total_bytes=100 * MIB, fixed_bytes=0, current_batch_size=128)
    curve, engine = climb(machine)
    assert engine.tries[:8] == [128, 1, 2, 4, 8, 16, 32, 64]
    timed = {trial.batch_size for trial in curve.trials if len(trial.step_seconds) >= 3}
    assert {32, 64} <= timed
    assert curve.ceiling.batch_size == 100


@pytest.mark.parametrize("keeps_state", ["restorable", "hidden"])
def test_state_that_is_kept_from_size_to_size_is_no_property_of_a_size(keeps_state: str) -> None:
    """fastai/fastbook 469: a hidden state carried from batch to batch fails with a batch of another size."""
    machine = Machine(keeps_state=keeps_state, dataset_size=256, current_batch_size=32)
    limits = Limits(budget_seconds=1e6)
    curve, engine = climb(machine, limits)
    assert all(trial.ok for trial in curve.trials)
    assert {trial.batch_size for trial in curve.trials} == {1, 16, 32, 64, 128, 256}
    assert {trial.batch_size for trial in TrialSet.of(curve).timed_in_rounds} == {16, 32, 64, 128, 256}
    warning = next(text for text in curve.warnings if "keeps state from batch to batch" in text)
    assert ("samples, not" in warning) is (keeps_state == "hidden")
    assert (engine.sessions == 1) is (keeps_state == "restorable")


def test_a_schedule_that_ends_is_no_property_of_a_size() -> None:
    """flair 2954: a schedule in the user's step was made for as many steps as the training has."""
    machine = Machine(schedule_steps=20, step_seconds=lambda size: 0.0005, dataset_size=256)
    curve, _ = climb(machine)
    assert all(trial.ok for trial in curve.trials)
    assert curve.ceiling.batch_size == 256


@pytest.mark.parametrize("current", [None, 32])
def test_a_loss_that_is_not_a_number_at_small_sizes_is_a_floor(current: int | None) -> None:
    """pytorch/pytorch 70348: all labels of a small batch are ignored."""
    machine = Machine(nan_below=6, dataset_size=256, current_batch_size=current)
    curve, _ = climb(machine)
    assert curve.ceiling.batch_size == 256
    assert min(trial.batch_size for trial in curve.trials if trial.ok) == 8
    floor = [warning for warning in curve.warnings if "below 8 can't be trained" in warning]
    assert len(floor) == 1
    assert "the loss is not a finite number" in floor[0]
    assert "`--min-batch 8`" in floor[0]


def test_a_loss_that_is_never_a_number_is_the_users_error() -> None:
    with pytest.raises(AutobatchError) as caught:
        climb(Machine(nan_below=10**6, dataset_size=256, current_batch_size=32))
    assert caught.value.code == "loss_not_finite"
    assert "batch size 32" in caught.value.facts[0]


def test_only_the_size_that_is_written_into_the_model_passes() -> None:
    """ICDICNet 25: the batch size is written into the model."""
    fixed = dict.fromkeys((size for size in range(1, 999) if size != 32), "shape is invalid")
    curve, _ = climb(Machine(failures=fixed, dataset_size=998, current_batch_size=32))
    assert [trial.batch_size for trial in curve.trials if trial.ok] == [32]
    assert curve.ceiling.limited_by is LimitedBy.SIZE_LIMIT
    texts = " ".join(curve.warnings)
    assert "from 33 on can't be trained" in texts
    assert "below 32 can't be trained" in texts


@pytest.mark.parametrize("objective", [Objective.TIME, Objective.MEMORY])
@pytest.mark.parametrize("leaked_bytes", [0, MIB // 2])
def test_memory_that_grows_from_step_to_step_is_named(objective: Objective, leaked_bytes: int) -> None:
    """pytorch/pytorch 5251: activations are kept from step to step, until memory ends after some steps."""
    machine = Machine(
        total_bytes=100_000 * MIB,
        fixed_bytes=0,
        sample_bytes=MIB // 16,
        leaked_bytes=leaked_bytes,
        dataset_size=300,
    )
    limits = Limits(budget_seconds=1e6, objective=objective)
    curve, engine = climb(machine, limits)
    curve = confirm(engine, curve, None, limits, Budget.of(limits, engine))
    growing = [warning for warning in curve.warnings if warning.startswith("memory grows by 512 KiB a step")]
    assert len(growing) == bool(leaked_bytes)
    assert not any("grows" in warning for warning in curve.warnings) or leaked_bytes


def test_steps_that_do_nothing_are_not_timed() -> None:
    """Lightning-AI/pytorch-lightning 21903: after a maximum of steps the loop only seems to be fast."""
    machine = Machine(idle_after=4, step_seconds=lambda size: 0.001 * size, dataset_size=64)
    curve, _ = climb(machine)
    assert all(trial.ok for trial in curve.trials)
    for trial in curve.trials:
        assert trial.samples_per_second == pytest.approx(1000.0)
    assert any("no longer steps its optimizer" in warning for warning in curve.warnings)


def test_a_size_of_one_sample_is_no_answer_to_samples_that_make_no_batch() -> None:
    errors = dict.fromkeys(range(2, 99), "stack expects each tensor to be equal size")
    with pytest.raises(AutobatchError, match="fails at batch size 2") as caught:
        climb(Machine(failures=errors))
    assert [trial.batch_size for trial in caught.value.trials] == [1, 2, 3]
    curve, _ = climb(Machine(failures=errors, current_batch_size=1))
    assert curve.ceiling.batch_size == 1


def test_groups_stay_whole_wherever_a_size_is_tried() -> None:
    """huggingface/trl 2858: the global batch is a multiple of the completions of a prompt."""
    machine = Machine(total_bytes=1000 * MIB, fixed_bytes=0, sample_bytes=7 * MIB, current_batch_size=20)
    limits = Limits(multiple_of=4, group=6, budget_seconds=1e6)
    curve, engine = climb(machine, limits)
    assert all(size % 12 == 0 for size in engine.tries)
    assert curve.ceiling.batch_size == 132
    assert recommend(curve, None, limits).batch_size % 12 == 0


@pytest.mark.parametrize("current", [None, 32])
@pytest.mark.parametrize("objective", [Objective.THROUGHPUT, Objective.TIME])
def test_a_single_best_size_is_timed_in_rounds_too(current: int | None, objective: Objective) -> None:
    """No other size comes near it, so that no window of several sizes is timed."""
    machine = Machine(step_seconds=lambda size: 0.01, dataset_size=256, current_batch_size=current)
    limits = Limits(budget_seconds=60.0, objective=objective, check=False)
    curve, _ = climb(machine, limits)
    answer = recommend(curve, None, limits)
    assert answer.batch_size == 256
    assert len(answer.chosen.step_seconds) >= 3
