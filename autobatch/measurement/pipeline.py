"""The course of one search: what is measured after what, and what Ctrl-C keeps of it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from autobatch._version import __version__
from autobatch.decision.recommender import recommend
from autobatch.devices import host
from autobatch.devices.host import usable_processors
from autobatch.engines import messages
from autobatch.engines.base import Opened
from autobatch.engines.local import WorkerEngine
from autobatch.engines.ranks.leader import RankedEngine
from autobatch.measurement import communication, unequal_ranks
from autobatch.measurement.check import PROBE_SHARE, Assessment
from autobatch.measurement.climb import Climb, Observer
from autobatch.measurement.confirmation import confirm
from autobatch.measurement.loading import Loading
from autobatch.records.check import Check
from autobatch.records.interruption import Interrupted
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.records.trial import Curve, Trial
from autobatch.storage import cache
from autobatch.storage.journal import Journal

SearchEngine = WorkerEngine | RankedEngine
# Where the objects of a `find` lie, and where modules are looked for, may be new each time.
TOLD_OF_RECIPE = tuple(
    one for one in messages.Recipe.__struct_fields__ if one not in ("payload", "sys_path", "frameworks")
)


def run(
    engine: SearchEngine,
    recipe: messages.Recipe,
    limits: Limits,
    of_a_rank: Limits,
    watch: Watch,
    *,
    contended: bool,
    fresh: bool,
) -> Recommendation:
    """The answer, from the cache unless it has to be `fresh`. `of_a_rank`: the limits with one rank's share.

    Raises Interrupted, with what was measured so far.
    """
    try:
        slot = _slot(engine, recipe, limits)
        if not fresh and (known := slot.answer()) is not None:
            return known
        curve = Climb(engine, of_a_rank, watch, PROBE_SHARE if limits.check else 1.0).run()
        curve = _loaded(engine, curve, limits, watch)
        check = _check(engine, curve, limits, watch) if limits.check else None
        curve = _communicated(engine, curve, check, limits, watch)
        curve = _confirmed(engine, curve, check, limits, watch)
        curve = _shared_out(engine, curve, check, limits, watch)
    except Interrupted as stopped:
        # A second Ctrl-C must not cost what the first one kept.
        with contextlib.suppress(KeyboardInterrupt):
            engine.close()
        if stopped.curve is not None:
            stopped.recommendation = watch.finish(stopped.curve, limits, contended, stopped.check)
        raise
    answer = slot.keep(watch.finish(curve, limits, contended, check))
    watch.answered()
    return answer


def _slot(engine: SearchEngine, recipe: messages.Recipe, limits: Limits) -> cache.Slot:
    """The place in the cache for what the engine has opened. Raises like `engine.open`."""
    try:
        opened = engine.open()
        told = engine.take_fingerprint()
    except KeyboardInterrupt:
        raise Interrupted(None) from None
    name = ""
    if told.parts:
        asked = {one: getattr(recipe, one) for one in TOLD_OF_RECIPE}
        asked |= {"world_size": opened.world_size} if opened.world_size > 1 else {}
        name = cache.name_of(told.parts, limits, opened.device, asked, os.environ)
    return cache.Slot(name, limits, opened.device, opened.workload, why_not=told.detail)


def _loaded(engine: SearchEngine, curve: Curve, limits: Limits, watch: Watch) -> Curve:
    """The curve with how its training is loaded. Ctrl-C in it keeps what was measured."""
    # Ranks of one machine share its processors.
    ranks = engine.local_ranks if isinstance(engine, RankedEngine) else 1
    loading = Loading(engine, curve, limits, max(1, usable_processors() // ranks), watch.checking)
    try:
        return replace(curve, loader=loading.run())
    except KeyboardInterrupt:
        raise Interrupted(replace(curve, loader=loading.loader)) from None


def _check(engine: SearchEngine, curve: Curve, limits: Limits, watch: Watch) -> Check:
    """The generalization check. Ctrl-C in it keeps the curve, and what it has come to."""
    assessment = Assessment(engine, curve, limits, watch.checking)
    try:
        return assessment.run()
    except KeyboardInterrupt:
        raise Interrupted(curve, assessment.check) from None


def _communicated(
    engine: SearchEngine, curve: Curve, check: Check | None, limits: Limits, watch: Watch
) -> Curve:
    """The curve with what ranks pay for training together. Ctrl-C in it keeps all that was measured."""
    if not isinstance(engine, RankedEngine):
        return curve
    watch.checking("timing the communication of the ranks")
    with _kept(curve, check):
        size = recommend(curve, check, limits).batch_size
        found = communication.measure(engine, size, limits.trial_timeout_seconds)
    return replace(curve, communication=found)


def _shared_out(
    engine: SearchEngine, curve: Curve, check: Check | None, limits: Limits, watch: Watch
) -> Curve:
    """The curve with sizes of each rank, where they were asked for. Ctrl-C in it keeps what was measured."""
    if not (limits.sizes_per_rank and isinstance(engine, RankedEngine)):
        return curve
    watch.checking("looking for sizes of each rank")
    with _kept(curve, check):
        common = recommend(curve, check, limits).batch_size
        found = unequal_ranks.measure(engine, common, limits.multiple_of, limits.trial_timeout_seconds)
    return replace(curve, sizes_per_rank=found)


def _confirmed(
    engine: SearchEngine, curve: Curve, check: Check | None, limits: Limits, watch: Watch
) -> Curve:
    """The curve with its recommended size confirmed. Ctrl-C in it keeps all that was measured."""
    watch.checking("confirming the answer in a fresh process")
    with _kept(curve, check):
        return confirm(engine, curve, check, limits)


@contextlib.contextmanager
def _kept(curve: Curve, check: Check | None) -> Iterator[None]:
    """Lets Ctrl-C in the block keep what was measured before it."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(curve, check) from None


class Watch(Observer):
    """Passes everything on, journals each trial, and remembers what the environment record needs."""

    def __init__(self, inner: Observer | None, limits: Limits, journal: Journal) -> None:
        self._inner = inner or Observer()
        self._limits = limits
        self._journal = journal
        self._torch = ""
        self._started_at = datetime.now(UTC)
        self._begin = time.monotonic()
        self.trying = self._inner.trying  # type: ignore[method-assign]
        self.checking = self._inner.checking  # type: ignore[method-assign]

    def opened(self, opened: Opened) -> None:
        self._torch = opened.torch
        self._journal.opened(
            opened.workload, opened.device, self._limits, self._environment(), world_size=opened.world_size
        )
        self._inner.opened(opened)

    def tried(self, trial: Trial) -> None:
        self._journal.tried(trial)
        self._inner.tried(trial)

    def answered(self) -> None:
        """The search has its answer, so its journal is not needed any more."""
        self._journal.finished()

    def finish(
        self, curve: Curve, limits: Limits, contended: bool, check: Check | None = None
    ) -> Recommendation:
        """The recommendation of a curve, with where and when it was measured."""
        if contended and curve.device.kind == "cpu":
            note = "other processes were busy, so waiting threads slept instead of spinning (OMP_WAIT_POLICY)"
            curve = replace(curve, warnings=(*curve.warnings, note))
        return replace(recommend(curve, check, limits), environment=self._environment())

    def _environment(self) -> Environment:
        return Environment(
            autobatch=__version__,
            python=platform.python_version(),
            torch=self._torch,
            platform=platform.platform(),
            cpu=host.cpu_name(),
            started_at=self._started_at.isoformat(timespec="seconds"),
            elapsed_seconds=round(time.monotonic() - self._begin, 3),
        )
