"""The parent's side of loading: does it set the pace, and how many workers would change that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median

from autobatch.decision import search
from autobatch.decision.constants import TOLERANCE
from autobatch.decision.round_statistics import timed
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve, Loader, LoaderTiming, Trial

# Of the budget, for all timings together; seconds of one, at most, and as a part of what is left.
_BUDGET_SHARE = 0.1
_MOST_SECONDS, _PART = 1.0, 0.25
# Batches of each worker that a timing takes at least: the first is left out.
_FEWEST_TURNS = 2


class Loading:
    """One look at how a curve's training is loaded. `loader` says at any time what it has come to."""

    def __init__(
        self,
        engine: Engine,
        curve: Curve,
        limits: Limits,
        processors: int,
        tell: Callable[[str], None] = lambda what: None,
    ) -> None:
        """`processors`: how many may be used here. `tell` hears what is about to be done."""
        self._engine = engine
        self._seed = limits.seed
        self._processors = processors
        self._tell = tell
        self._trial = notable(curve)
        share = engine.busy_seconds + _BUDGET_SHARE * limits.budget_seconds
        self._end_seconds = min(limits.budget_seconds, share)
        self.loader = None
        if self._trial is not None:
            self.loader = Loader(
                batch_size=self._trial.batch_size,
                workers=curve.workload.workers or 0,
                step_seconds=median(self._trial.step_seconds),
            )

    def run(self) -> Loader | None:
        """Times the user's own number of workers, then others until one keeps up or the time ends.

        None where loading takes no notable share of a step, or can't be told.
        """
        while (loader := self.loader) is not None:
            workers = next_workers(loader, self._processors)
            if workers is None or not self._has_time():
                break
            self._tell(f"timing the data loader with {workers} worker{'' if workers == 1 else 's'}")
            self.loader = _with(loader, self._timing(loader.batch_size, workers))
        return self.loader

    def _has_time(self) -> bool:
        assert self._trial is not None
        return self._left > _FEWEST_TURNS * (self._trial.load_seconds or 0.0)

    def _timing(self, batch_size: int, workers: int) -> LoaderTiming:
        seconds = min(_MOST_SECONDS, _PART * self._left)
        command = messages.TimeLoader(
            batch_size=batch_size, workers=workers, seconds=seconds, seed=self._seed
        )
        reply = self._engine.time_loader(command)
        return LoaderTiming(workers=workers, batch_seconds=reply.batch_seconds, detail=reply.detail)

    @property
    def _left(self) -> float:
        return self._end_seconds - self._engine.busy_seconds


def notable(curve: Curve) -> Trial | None:
    """The size of the best throughput, if loading it in one process takes a notable share of its step.

    Where that is not known, as with a stream, it may.
    """
    if curve.workload.synthetic:
        return None
    passed = [t for t in search.latest(curve.trials).values() if t.ok and t.step_seconds]
    best = max(timed(passed), key=lambda trial: trial.samples_per_second or 0.0, default=None)
    if best is None or best.load_seconds is None:
        return best
    return best if best.load_seconds > TOLERANCE * median(best.step_seconds) else None


def next_workers(loader: Loader, processors: int) -> int | None:
    """The number of workers to time next; None where one keeps up, one has failed, or there is no other.

    The user's own first, then 1, 2, 4 ... up to the processors: those above the user's own, or where there
    are none, those below.
    """
    if not loader.timings:
        return loader.workers
    if loader.sufficient_workers is not None or loader.timings[-1].batch_seconds is None:
        return None
    steps = sorted({*(1 << k for k in range(processors.bit_length())), processors})
    others = [count for count in steps if count > loader.workers]
    others = others or [count for count in steps if count < loader.workers]
    timed_already = {one.workers for one in loader.timings}
    return next((count for count in others if count not in timed_already), None)


def _with(loader: Loader, found: LoaderTiming) -> Loader | None:
    """The loader with one more timing; None where the first one tells nothing and there is no error."""
    if found.batch_seconds is None and not found.detail and not loader.timings:
        return None
    pace = loader.pace_seconds(found)
    keeps_up = pace is not None and pace <= (1 + TOLERANCE) * loader.step_seconds
    return replace(
        loader,
        timings=(*loader.timings, found),
        sufficient_workers=found.workers if keeps_up else loader.sufficient_workers,
    )
