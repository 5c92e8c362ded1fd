"""The throughput curve of a script: its own size first, then half of it, doublings, and all once more."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, inf
from statistics import median

from autobatch.decision.constants import FEWEST_SAMPLES, NOISE_SAMPLES_SHARE
from autobatch.decision.round_statistics import throughput
from autobatch.engines.base import Opened
from autobatch.measurement.climb import Observer
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import INTERRUPTED
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.scripts import refusals
from autobatch.scripts.engine import ROUNDS, ScriptEngine
from autobatch.scripts.messages import Measured
from autobatch.scripts.process import ScriptEndedError

# Of the time from the first start of the command to the confirmation, for the curve; the rest is the check's.
_SHARE = 0.5
# Each size of a script that has to be started again takes a start, which leaves the check less.
_SHARE_WITH_RESTARTS = 0.75
# A curve of the script's own size alone compares nothing, so a second has that much time on any budget.
_LEAST_SECONDS = 4.0
# A doubling has to bring this much throughput; two in a row that don't end the climb.
_WORTH = 1.05
_FLATS = 2
# Halving pays only where the step gets shorter by this much; a fixed cost is paid at any size.
_SHORTER = 0.9
_MOST_HALVINGS = 3
# Steps of an epoch, at least: with fewer, a script has nothing but the ends of epochs.
_FEWEST_STEPS = 4
# Batches in a process that has to show the throughput of a size: rounds, warm-up, those on their way.
_STEPS = 3 * ROUNDS + 8
# Longer steps are rounds by themselves, and fewer of them are enough.
_LONG_STEP_SECONDS, _LONG_STEPS = 0.1, 6
# The first other size proves that it can be set, so it is measured where a warm-up and a step fit.
_PROOF_STEPS = 2


class Sweep:
    """Measures sizes until the curve is known or its share of the budget is spent."""

    def __init__(self, engine: ScriptEngine, opened: Opened, limits: Limits, observer: Observer) -> None:
        self._engine = engine
        self._opened = opened
        self._limits = limits
        self._observer = observer
        self._trials: dict[int, Trial] = {}
        self._end_seconds = self._proof_end_seconds = 0.0
        self._ceiling: tuple[LimitedBy, str] = (LimitedBy.BUDGET, "")

    def run(self) -> Curve:
        """The curve. Raises AutobatchError where the script's trial size can't be measured."""
        current = self._engine.session.current_size
        trial = self._measure(current)
        if not trial.ok:
            raise AutobatchError(
                f"the script's trial batch size, {current:,}, can't be measured",
                code="current_size_fails",
                facts=(trial.detail,),
                hint="if the training has phases with loaders of their own, measure one phase alone",
            )
        self._end_seconds = self._end_of_share(trial)
        self._proof_end_seconds = max(
            self._engine.schedule.proof_end_seconds, self._engine.busy_seconds + _LEAST_SECONDS
        )
        self._engine.take_snapshot()
        # Half of it comes early: a climb may take the whole time, and the script's size may be too large.
        # Where each size takes a start of the command there is time for a few: larger ones promise more.
        half = self._halved(current) if self._engine.session.in_place else current
        self._climb(current)
        for _ in range(_MOST_HALVINGS - 1):
            half = half and self._halved(half)
        self._refuse_fixed_size(current)
        self._again()
        return self.curve

    @property
    def curve(self) -> Curve:
        """All measurements so far."""
        passed = [size for size, trial in self._trials.items() if trial.ok]
        reason, detail = self._ceiling
        return Curve(
            trials=tuple(self._trials.values()),
            ceiling=Ceiling(batch_size=max(passed), limited_by=reason, verified=False, detail=detail),
            workload=self._opened.workload,
            device=self._opened.device,
            world_size=self._opened.world_size,
        )

    def _refuse_fixed_size(self, current: int) -> None:
        """Raise TargetError where every other size fails, and not for a lack of memory or time."""
        others = [trial for size, trial in self._trials.items() if size != current]
        if others and all(trial.outcome is Outcome.FAILED for trial in others):
            raise refusals.fixed_size(current, sorted({trial.detail for trial in others}))

    def partial_curve(self) -> Curve | None:
        """The curve of an interrupted sweep; None where no size has passed."""
        if not any(trial.ok for trial in self._trials.values()):
            return None
        note = "interrupted: only the sizes shown were measured"
        ceiling = replace(self.curve.ceiling, limited_by=LimitedBy.BUDGET, detail=INTERRUPTED)
        return replace(self.curve, ceiling=ceiling, warnings=(*self.curve.warnings, note))

    def _climb(self, current: int) -> None:
        """Double until memory, data, time or gain run out."""
        size, flats = current, 0
        while True:
            cap, reason = self._cap()
            if 2 * size > cap:
                self._ceiling = reason, ""
                return
            size *= 2
            if (why := self._will_not_fit(size)) is not None:
                self._ceiling = LimitedBy.MEMORY, why
                return
            if not self._has_time(2 * self._step_seconds(size // 2)):
                self._ceiling = LimitedBy.BUDGET, "the time for the curve was spent"
                return
            trial = self._measure(size)
            if not trial.ok:
                memory = trial.outcome is Outcome.OUT_OF_MEMORY
                self._ceiling = LimitedBy.MEMORY if memory else LimitedBy.SIZE_LIMIT, trial.detail
                return
            best = max(_rate(t) for s, t in self._trials.items() if s < size)
            flats = flats + 1 if _rate(trial) < _WORTH * best else 0
            if flats >= _FLATS and not self._limits.ceiling:
                self._ceiling = LimitedBy.PLATEAU, ""
                return

    def _halved(self, size: int) -> int | None:
        """Measure half a size. Returns it where its step is so much shorter that halving goes on.

        As the first other size, a smaller one proves as much where half of it takes too long.
        """
        longest = self._step_seconds(size)
        half, expected_seconds = self._half_of(size), longest
        while half and len(self._trials) < 2 and not self._has_time(expected_seconds):
            half, expected_seconds = self._half_of(half), expected_seconds / 2
        if not half or not self._has_time(expected_seconds):
            return None
        trial = self._measure(half)
        return half if trial.ok and median(trial.step_seconds) < _SHORTER * longest else None

    def _half_of(self, size: int) -> int:
        """Half a size in whole micro batches; 0 where that is too small."""
        unit = self._engine.session.unit
        half = size // 2 // unit * unit
        return half if half >= max(self._limits.smallest, unit) else 0

    def _again(self) -> None:
        """Time every size once more, since a busy machine may have slowed one of them by chance."""
        if not self._engine.session.in_place:
            return
        for size in sorted(size for size, trial in self._trials.items() if trial.ok):
            if not self._has_time(self._step_seconds(size)):
                return
            self._measure(size)

    def _measure(self, size: int) -> Trial:
        self._observer.trying(size)
        before = self._trials.get(size)
        left = self._end_seconds - self._engine.busy_seconds if len(self._trials) > 1 else inf
        try:
            measured = self._engine.measure(
                size, min(self._limits.trial_timeout_seconds, max(_LEAST_SECONDS, left))
            )
        except ScriptEndedError as ended:
            trial = Trial(batch_size=size, outcome=ended.outcome, detail=ended.detail, phase="training")
        else:
            trial = _trial(size, measured, before, self._opened)
        if trial.ok and self._is_confirmed(size):
            trial = replace(trial, confirmed=True)
        # A size that passed once and not again has failed, as in any climb.
        self._trials[size] = trial
        if before is None or before.outcome is not trial.outcome:
            self._observer.tried(trial)
        return trial

    def _is_confirmed(self, size: int) -> bool:
        """True where a fresh process could show nothing new: the size is the script's, or came in one."""
        session = self._engine.session
        return size == session.current_size or (not session.in_place and session.observed.loader is None)

    def _cap(self) -> tuple[int, LimitedBy]:
        """The largest size that may be tried, and the reason."""
        caps = [(1 << 30, LimitedBy.SIZE_LIMIT)]
        if (samples := self._opened.workload.dataset_size) is not None:
            caps.append((samples // self._engine.ranks // _FEWEST_STEPS, LimitedBy.DATASET))
        if self._limits.max_batch is not None:
            caps.append((self._limits.max_batch, LimitedBy.MAX_BATCH))
        return min(caps, key=lambda cap: cap[0])

    def _will_not_fit(self, size: int) -> str | None:
        """Why a size is predicted not to fit, by the line through the memory of the largest two sizes."""
        limit = self._opened.device.limit_bytes
        peaks = sorted((s, t.peak_bytes) for s, t in self._trials.items() if t.ok and t.peak_bytes)
        if limit is None or len(peaks) < 2:
            return None
        (lower, low_bytes), (upper, high_bytes) = peaks[-2:]
        slope = max(0.0, (high_bytes - low_bytes) / (upper - lower))
        predicted = high_bytes + slope * (size - upper)
        return None if predicted <= limit else "the next doubling is predicted not to fit"

    def _step_seconds(self, size: int) -> float:
        return median(self._trials[size].step_seconds)

    def _has_time(self, step_seconds: float) -> bool:
        """True where the curve's share of the budget has time for another size."""
        steps = _STEPS if step_seconds < _LONG_STEP_SECONDS else _LONG_STEPS
        start = 0.0 if self._engine.session.in_place else self._engine.session.start_seconds
        end_seconds = self._end_seconds
        if len(self._trials) < 2:
            # A curve of one size compares nothing: the time of the check is better spent on a second.
            end_seconds = max(end_seconds, self._proof_end_seconds)
            steps = min(steps, _PROOF_STEPS)
        return end_seconds - self._engine.busy_seconds > start + steps * step_seconds

    def _end_of_share(self, current: Trial) -> float:
        """The end of the curve's share of the time, on the clock of the engine.

        The curve has all of it where the check could not measure the gradient noise in its share.
        """
        session = self._engine.session
        left = self._engine.schedule.end_seconds - self._engine.busy_seconds
        share = _SHARE if session.in_place else _SHARE_WITH_RESTARTS
        # The check keeps time for a start in any case.
        noise_seconds = (1 - share) * left - session.start_seconds
        if not self._limits.check or NOISE_SAMPLES_SHARE * noise_seconds * _rate(current) < FEWEST_SAMPLES:
            share = 1.0
        return self._engine.busy_seconds + share * left


def _trial(size: int, measured: Measured, before: Trial | None, opened: Opened) -> Trial:
    """The trial of a size, with the rounds that it had before."""
    seconds = (*(before.step_seconds if before is not None and before.ok else ()), *measured.round_seconds)
    rate, interval = throughput(size, seconds)
    samples = opened.workload.dataset_size
    steps = None if samples is None else ceil(samples / (size * opened.world_size))
    trial = Trial(
        batch_size=size,
        outcome=Outcome.OK,
        step_seconds=tuple(seconds),
        samples_per_second=rate,
        samples_per_second_interval=interval,
        steps_per_epoch=steps,
        epoch_seconds=None if steps is None else steps * median(seconds),
        load_seconds=measured.load_seconds,
        peak_bytes=measured.peak_bytes,
        reserved_bytes=measured.reserved_bytes,
        samples=size * measured.steps,
        optimizer_steps=measured.steps,
    )
    if before is None or not before.ok:
        return trial
    return replace(
        trial,
        peak_bytes=max(filter(None, (before.peak_bytes, trial.peak_bytes)), default=None),
        samples=before.samples + trial.samples,
        optimizer_steps=before.optimizer_steps + trial.optimizer_steps,
    )


def _rate(trial: Trial) -> float:
    return trial.samples_per_second or 0.0
