"""The loader's timing: whether loading sets the pace, and how many workers would change that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median

from autobatch.decision.constants import STAGE_SHARE, TOLERANCE
from autobatch.decision.trial_set import TrialSet
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.measurement.budget import Budget
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve, Loader, LoaderTiming, Trial


class Loading:
    """The loader's timing for one curve. `loader` holds the result so far."""

    def __init__(
        self,
        engine: Engine,
        curve: Curve,
        limits: Limits,
        budget: Budget,
        processors: int,
        announce: Callable[[str], None] = lambda what: None,
    ) -> None:
        """`processors`: those that the loader may use. `announce` hears of each timing that begins."""
        self._engine = engine
        self._seed = limits.seed
        self._processors = processors
        self._announce = announce
        self._trial = notable(curve)
        self._budget = budget.stage(STAGE_SHARE)
        self._longest_seconds = 0.0
        self.loader = None
        if self._trial is not None:
            self.loader = Loader(
                batch_size=self._trial.batch_size,
                workers=curve.workload.workers or 0,
                step_seconds=median(self._trial.step_seconds),
            )

    def run(self) -> Loader | None:
        """Times the user's number of workers, then others until one keeps up or the time ends.

        None where loading takes no notable share of a step, or can't be timed.
        """
        while (loader := self.loader) is not None:
            workers = next_workers(loader, self._processors)
            if workers is None or not self._has_time():
                break
            self._announce(f"timing the data loader with {workers} worker{'' if workers == 1 else 's'}")
            self.loader = _with_timing(loader, self._time(loader.batch_size, workers))
        return self.loader

    def _has_time(self) -> bool:
        """True while there is time for two batches, as a timing leaves out the first, and for the start."""
        assert self._trial is not None
        return self._budget.left_seconds > max(2 * (self._trial.load_seconds or 0.0), self._longest_seconds)

    def _time(self, batch_size: int, workers: int) -> LoaderTiming:
        # A second is enough batches of any loader that matters; half of the rest leaves time for the others.
        seconds = min(1.0, self._budget.left_seconds / 2)
        command = messages.TimeLoader(
            batch_size=batch_size, workers=workers, seconds=seconds, seed=self._seed
        )
        begin = self._budget.spent_seconds
        reply = self._engine.time_loader(command)
        self._longest_seconds = max(self._longest_seconds, self._budget.spent_seconds - begin - seconds)
        return LoaderTiming(workers=workers, batch_seconds=reply.batch_seconds, detail=reply.detail)


def notable(curve: Curve) -> Trial | None:
    """The size of the best throughput, if loading it in one process takes a notable share of its step.

    Where the time to load is unknown, as with a stream, it may be notable.
    """
    if curve.workload.synthetic:
        return None
    best = TrialSet.of(curve).best
    if best is None or best.load_seconds is None:
        return best
    step_seconds = median(best.step_seconds)
    return best if step_seconds + best.load_seconds > (1 + TOLERANCE) * step_seconds else None


def next_workers(loader: Loader, processors: int) -> int | None:
    """The number of workers to time next; None where one keeps up, one has failed, or none is left.

    The user's number first, then 1, 2, 4 ... up to the processors: those above the user's number, or where
    there are none, those below.
    """
    if not loader.timings:
        return loader.workers
    if loader.sufficient_workers is not None or loader.timings[-1].batch_seconds is None:
        return None
    steps = sorted({*(1 << k for k in range(processors.bit_length())), processors})
    others = [count for count in steps if count > loader.workers]
    others = others or [count for count in steps if count < loader.workers]
    timed_already = {timing.workers for timing in loader.timings}
    return next((count for count in others if count not in timed_already), None)


def _with_timing(loader: Loader, timing: LoaderTiming) -> Loader | None:
    """The loader with one more timing; None where the first one gave no batch and no error."""
    if timing.batch_seconds is None and not timing.detail and not loader.timings:
        return None
    pace_seconds = loader.pace_seconds(timing)
    keeps_up = pace_seconds is not None and pace_seconds <= (1 + TOLERANCE) * loader.step_seconds
    return replace(
        loader,
        timings=(*loader.timings, timing),
        sufficient_workers=timing.workers if keeps_up else loader.sufficient_workers,
    )
