"""Other micro batches for the same batch size, predicted from a curve."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from autobatch.records.device import Device
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.scripts.application import split_application
from autobatch.scripts.command import parse
from autobatch.scripts.knob import Split, find_knobs, find_steps_flags
from autobatch.scripts.splits import FasterSplit, predicted_split
from tests.scripts.observations import flag, observed
from tests.scripts.test_application import ANSWER

COMMAND = parse(["python", "train.py", "--gradient_accumulation_steps", "4", "--batch_size=8"])
CURRENT = Split(micro_batch=8, steps=4)


def curve(micro_seconds: dict[int, float], steps: int = 4) -> Curve:
    trials = (
        Trial(batch_size=size * steps, outcome=Outcome.OK, step_seconds=(steps * seconds,))
        for size, seconds in micro_seconds.items()
    )
    return Curve(
        trials=tuple(trials),
        ceiling=Ceiling(batch_size=max(micro_seconds) * steps, limited_by=LimitedBy.PLATEAU, verified=False),
        workload=replace(ANSWER.workload, batch_size=32),
        device=Device(kind="cpu", index=0, name="cpu"),
        world_size=1,
    )


def test_a_fixed_cost_of_each_micro_batch_favours_fewer_of_them():
    found = predicted_split(CURRENT, curve({8: 0.10, 16: 0.11, 32: 0.13}))
    assert found is not None
    split, seconds = found
    assert split == Split(micro_batch=32, steps=1)
    assert seconds == 0.13


def test_micro_batches_that_cost_by_the_sample_stay():
    assert predicted_split(CURRENT, curve({8: 0.1, 16: 0.2, 32: 0.4})) is None


def test_a_size_that_failed_is_no_candidate():
    failed = Trial(batch_size=128, outcome=Outcome.OUT_OF_MEMORY)
    measured = curve({8: 0.1, 16: 0.11})
    found = predicted_split(CURRENT, replace(measured, trials=(*measured.trials, failed)))
    assert found is not None
    assert found[0] == Split(micro_batch=16, steps=2)


@given(st.dictionaries(st.integers(1, 64), st.floats(0.01, 1.0), min_size=1), st.integers(1, 8))
def test_the_samples_of_a_step_stay(micro_seconds: dict[int, float], steps: int):
    current = Split(micro_batch=8, steps=steps)
    found = predicted_split(current, curve({8: 0.5} | micro_seconds, steps))
    if found is not None:
        assert found[0].batch_size == current.batch_size
        assert found[0].micro_batch in micro_seconds


def test_the_flag_of_the_steps_is_found_by_its_name_and_value():
    accumulating = observed(fetches=4, sightings=[flag("gradient_accumulation_steps", 4), flag("layers", 4)])
    assert find_steps_flags(COMMAND, accumulating) == ("--gradient-accumulation-steps",)
    assert find_steps_flags(COMMAND, observed(fetches=2)) == ()
    assert find_steps_flags(COMMAND, observed(sightings=[flag("accumulate", 1)])) == ()
    # A word of the command that no parser was seen to read.
    assert find_steps_flags(parse(["train", "accum=4"]), observed(fetches=4)) == ("accum",)


def test_both_knobs_are_set_and_the_product_stays():
    (knob, _) = find_knobs(
        COMMAND, observed(sizes=[8] * 10, fetches=4, sightings=[flag("batch_size", 8, "--batch_size")])
    )
    faster = FasterSplit(split=Split(micro_batch=32, steps=1), speedup=3.08)
    applied = split_application(COMMAND, knob, ("--gradient_accumulation_steps",), faster)
    assert applied.lines == (
        "run: python train.py --gradient_accumulation_steps 1 --batch_size=32"
        "  (the same 32 samples a step, 3.08x as fast)",
    )
