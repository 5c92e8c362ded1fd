"""Trials in words: the error where no size passed, and warnings about sizes that can't be trained."""

from __future__ import annotations

import pytest

from autobatch.decision.trial_set import TrialSet
from autobatch.measurement import diagnosis
from autobatch.records.device import Device
from autobatch.records.errors import DeviceError, TargetError, UsageError
from autobatch.records.trial import MemoryLine, Outcome
from tests.builders import device, failed_trial, trial

MIB = 1 << 20
LIMITED = device(limit_bytes=100 * MIB, limit_source="`--memory-limit`")


@pytest.mark.parametrize(
    ("outcome", "kind", "code"),
    [
        (Outcome.TIMEOUT, UsageError, "trial_timeout"),
        (Outcome.CRASHED, TargetError, "worker_died"),
        (Outcome.OUT_OF_MEMORY, DeviceError, "nothing_fits"),
    ],
)
def test_where_no_size_passed_the_error_names_size_and_reason(
    outcome: Outcome, kind: type[Exception], code: str
) -> None:
    failed = failed_trial(4, outcome, detail="the reason", phase="forward")
    error = diagnosis.nothing_passed([failed], LIMITED)
    assert isinstance(error, kind)
    assert error.code == code
    assert "4" in error.message
    assert "the reason" in error.facts
    assert error.hint


def test_a_smaller_size_is_advised_only_where_there_is_one() -> None:
    hints = {size: diagnosis.nothing_passed([failed_trial(size)], LIMITED).hint for size in (1, 8)}
    assert "--min-batch" not in hints[1]
    assert "--min-batch" in hints[8]


@pytest.mark.parametrize(("fixed", "advised"), [(20 * MIB, True), (200 * MIB, False)])
def test_checkpointing_is_advised_only_where_activations_are_the_problem(fixed: int, advised: bool) -> None:
    lines = [MemoryLine(fixed_bytes=fixed, sample_bytes=30 * MIB)]
    hint = diagnosis.nothing_passed([failed_trial(4)], LIMITED, lines).hint
    assert ("torch.utils.checkpoint" in hint) is advised


def test_a_floor_and_a_hole_are_named_with_their_reasons() -> None:
    failures = [failed_trial(size, Outcome.FAILED, detail=f"error at {size}") for size in (1, 2, 16)]
    texts = diagnosis.floor_and_holes(TrialSet((*failures, trial(4), trial(8), trial(32))))
    floor, hole = texts
    assert "below 4" in floor
    assert "error at 2" in floor
    assert "batch size 16" in hole
    assert "error at 16" in hole


def test_sizes_that_are_no_multiple_are_one_warning() -> None:
    failures = (failed_trial(size, Outcome.FAILED, detail="odd") for size in (1, 21, 95, 101))
    (text,) = diagnosis.floor_and_holes(TrialSet((*failures, *map(trial, (2, 10, 80, 96)))))
    assert text.startswith("batch size 1, 21, 95 can't be trained, and multiples of 2 can (odd): set")
    floor = TrialSet((failed_trial(8, Outcome.FAILED, detail="small"), *map(trial, (12, 24, 48))))
    assert "--min-batch 12" in diagnosis.floor_and_holes(floor)[0]


def test_without_failures_there_is_nothing_to_warn_of() -> None:
    assert diagnosis.floor_and_holes(TrialSet((trial(4), trial(8)))) == []
    assert diagnosis.warnings(TrialSet((trial(4), trial(8))), device()) == ()


def test_notes_of_the_device_come_first_and_a_crash_that_passed_later_is_said() -> None:
    noted = Device(kind="cpu", index=0, name="a processor", notes=("the device is shared",))
    crashed = failed_trial(8, Outcome.CRASHED)
    first, *rest = diagnosis.warnings(TrialSet((trial(4), crashed, trial(8))), noted)
    assert first == "the device is shared"
    assert any("batch size 8" in text for text in rest)


def test_compilation_is_said_only_where_it_took_time() -> None:
    assert diagnosis.uncounted(0.5) == ()
    (text,) = diagnosis.uncounted(75.0)
    assert "1 min 15 s" in text or "75" in text


@pytest.mark.parametrize(
    ("grown_bytes", "epochs", "warns"),
    [
        (0, None, False),
        # 100 steps an epoch, 1 GiB left.
        (MIB // 64, None, False),
        (MIB // 4, None, True),
        (MIB // 4, 30.0, False),
        (MIB // 4, 50.0, True),
        (-1, None, False),
    ],
)
def test_growth_counts_where_an_epoch_adds_a_notable_part_of_what_is_left(
    grown_bytes: int, epochs: float | None, warns: bool
) -> None:
    """chexnet 12: kept activations are little beside a large model, and yet end its training."""
    large = trial(32, peak_bytes=100 * MIB, steps_per_epoch=100)
    warning = diagnosis.growing_memory(large, grown_bytes, 1124 * MIB, epochs)
    assert bool(warning) is warns
    assert not warns or "after about 4,096 steps" in warning


def test_growth_counts_where_a_step_adds_a_notable_part_of_the_peak() -> None:
    small = trial(32, peak_bytes=MIB, steps_per_epoch=1)
    assert diagnosis.growing_memory(small, MIB // 8, 1 << 40, None)
    assert not diagnosis.growing_memory(small, MIB // 100, 1 << 40, None)
