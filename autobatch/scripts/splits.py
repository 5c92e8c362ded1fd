"""A step's samples in other micro batches: the same training, faster where a larger micro batch is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from autobatch.records.trial import Curve
from autobatch.scripts.engine import ScriptEngine
from autobatch.scripts.knob import Split

# Share of the step time by which a split has to be shorter: less is within the noise of a few steps.
_WORTH = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class FasterSplit:
    """A measured `split` of the script's batch size, with a step that is `speedup` times as fast."""

    split: Split
    speedup: float


def predicted_split(current: Split, curve: Curve) -> tuple[Split, float] | None:
    """The fastest split of the same batch size, and its predicted step time in seconds.

    A micro batch takes its share of a step that was measured with the current number of them. None where no
    measured micro batch divides the batch size and promises enough.
    """
    micro_seconds = {
        trial.batch_size // current.steps: median(trial.step_seconds) / current.steps
        for trial in curve.trials
        if trial.ok and trial.batch_size % current.steps == 0
    }
    if current.micro_batch not in micro_seconds:
        return None
    predicted = {
        Split(micro_batch=size, steps=current.batch_size // size): current.batch_size // size * seconds
        for size, seconds in micro_seconds.items()
        if current.batch_size % size == 0
    }
    best = min(predicted, key=lambda split: predicted[split])
    worthwhile = predicted[best] < (1 - _WORTH) * predicted[current]
    return (best, predicted[best]) if worthwhile else None


def faster_split(engine: ScriptEngine, curve: Curve, tell: Callable[[str], None]) -> FasterSplit | None:
    """The fastest split of the script's batch size, measured in a new process; None where none is faster."""
    session = engine.session
    current = Split(micro_batch=session.knob.current, steps=session.unit)
    predicted = predicted_split(current, curve) if session.steps_flags else None
    if predicted is None or engine.busy_seconds + session.start_seconds > engine.schedule.end_seconds:
        return None
    split, _ = predicted
    tell(f"trying {split.steps} micro batches of {split.micro_batch:,}")
    measured = engine.time_split(split, engine.schedule.left_seconds)
    if measured is None:
        return None
    trial = next(trial for trial in curve.trials if trial.batch_size == current.batch_size)
    speedup = median(trial.step_seconds) / median(measured.round_seconds)
    return FasterSplit(split=split, speedup=speedup) if speedup > 1 / (1 - _WORTH) else None
