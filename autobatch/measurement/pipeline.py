"""One search from its start to its answer: the stages in their order, and the records that they add."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Protocol

from autobatch._version import __version__
from autobatch.decision.constants import PROBE_SHARE
from autobatch.decision.recommender import recommend
from autobatch.devices import host
from autobatch.devices.host import usable_processors
from autobatch.engines import messages
from autobatch.engines.base import Engine, Opened
from autobatch.measurement.budget import Budget
from autobatch.measurement.check import GeneralizationCheck
from autobatch.measurement.climb import Climb, Observer
from autobatch.measurement.communication import measure_communication
from autobatch.measurement.confirmation import confirm
from autobatch.measurement.last_batch import try_last_batch
from autobatch.measurement.loading import Loading
from autobatch.measurement.loss_kind import dependent_loss
from autobatch.measurement.unequal_ranks import size_ranks
from autobatch.records.check import Check
from autobatch.records.device import Device
from autobatch.records.interruption import Interrupted
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.records.trial import Curve, Trial
from autobatch.records.workload import Workload
from autobatch.storage import cache
from autobatch.storage.first_key import FirstKey

# Where the objects of a `find` lie, and where modules are looked for, may be new each time.
RECIPE_FIELDS_OF_CACHE = tuple(
    field for field in messages.Recipe.__struct_fields__ if field not in ("payload", "sys_path", "frameworks")
)


class Journal(Protocol):
    """Saves each row of a search as it comes, so that the death of this process loses none."""

    def opened(
        self,
        workload: Workload,
        device: Device,
        limits: Limits,
        environment: Environment,
        *,
        world_size: int = 1,
    ) -> None:
        """The search begins. An answer from the cache opens no journal."""
        ...

    def tried(self, trial: Trial) -> None:
        """A size was tried; its last trial counts."""
        ...

    def finished(self) -> None:
        """The answer is kept, so the rows are needed no longer."""
        ...


def run(
    engine: Engine,
    recipe: messages.Recipe,
    limits: Limits,
    limits_of_rank: Limits,
    watch: Watch,
    *,
    contended: bool,
    fresh: bool,
    first_key: FirstKey | None = None,
) -> Recommendation:
    """The answer, from the cache unless it has to be `fresh`. `limits_of_rank`: those for a rank's share.

    `first_key` gets the answer's place in the cache.

    Raises Interrupted, with the records of the search so far.
    """
    search = Search(engine, limits, limits_of_rank, watch)
    try:
        slot = open_slot(engine, recipe, limits, first_key)
        if not fresh and (answer := slot.answer()) is not None:
            return answer
        curve, check = search.run()
    except KeyboardInterrupt:
        # A second Ctrl-C must not cost the records that the first one kept.
        with contextlib.suppress(KeyboardInterrupt):
            engine.close()
        interrupted = Interrupted(*search.records())
        if interrupted.curve is not None:
            interrupted.recommendation = watch.answer(
                interrupted.curve, interrupted.check, contended=contended
            )
        raise interrupted from None
    answer = slot.keep(watch.answer(curve, check, contended=contended))
    watch.finished()
    return answer


class Search:
    """The stages of a search. Each adds its record, and `records` has those so far at any time."""

    def __init__(self, engine: Engine, limits: Limits, limits_of_rank: Limits, watch: Watch) -> None:
        self._engine = engine
        self._limits = limits
        self._limits_of_rank = limits_of_rank
        self._watch = watch
        self._budget = Budget.of(limits, engine)
        self._climb: Climb | None = None
        self._loading: Loading | None = None
        self._generalization: GeneralizationCheck | None = None
        self._curve: Curve | None = None

    def run(self) -> tuple[Curve, Check | None]:
        """Everything that is measured, in this order."""
        curve = self._curve = self._measure_sizes()
        curve = self._curve = self._time_loader(curve)
        check = self._check_generalization(curve)
        curve = self._curve = self._measure_communication(curve, check)
        curve = self._curve = self._confirm(curve, check)
        curve = self._curve = self._size_ranks(curve, check)
        return curve, check

    def records(self) -> tuple[Curve | None, Check | None]:
        """The curve and the check so far, those of the current stage included."""
        curve = self._curve
        if curve is None and self._climb is not None:
            curve = self._climb.partial_curve()
        if curve is not None and self._loading is not None:
            curve = replace(curve, loader=self._loading.loader)
        return curve, None if self._generalization is None else self._generalization.check

    def _measure_sizes(self) -> Curve:
        # The start-up has taken its part already.
        left = max(self._budget.left_seconds, 0.0) / self._budget.total_seconds
        budget = self._budget.stage(PROBE_SHARE * left if self._limits.check else 1)
        self._climb = Climb(self._engine, self._limits_of_rank, self._watch, budget)
        return self._climb.run()

    def _time_loader(self, curve: Curve) -> Curve:
        # Ranks of the same machine share its processors.
        processors = max(1, usable_processors() // self._engine.local_ranks)
        self._loading = Loading(
            self._engine, curve, self._limits, self._budget, processors, self._watch.checking
        )
        return replace(curve, loader=self._loading.run())

    def _check_generalization(self, curve: Curve) -> Check | None:
        if not self._limits.check:
            return dependent_loss(self._engine, curve, self._limits, self._budget)
        budget = self._budget.reserving(self._engine.start_seconds)
        self._generalization = GeneralizationCheck(
            self._engine, curve, self._limits, budget, self._watch.checking
        )
        return self._generalization.run()

    def _measure_communication(self, curve: Curve, check: Check | None) -> Curve:
        if self._engine.ranks == 1:
            return curve
        self._watch.checking("timing the communication of the ranks")
        size = recommend(curve, check, self._limits).batch_size
        return replace(curve, communication=measure_communication(self._engine, size, self._budget))

    def _confirm(self, curve: Curve, check: Check | None) -> Curve:
        self._watch.checking("confirming the answer in a fresh process")
        curve = confirm(self._engine, curve, check, self._limits, self._budget)
        return try_last_batch(self._engine, curve, check, self._limits, self._budget)

    def _size_ranks(self, curve: Curve, check: Check | None) -> Curve:
        if self._engine.ranks == 1 or not self._limits.sizes_per_rank:
            return curve
        self._watch.checking("looking for sizes of each rank")
        size = recommend(curve, check, self._limits).batch_size
        sizes = size_ranks(self._engine, size, self._limits.multiple_of, self._budget)
        return replace(curve, sizes_per_rank=sizes)


def open_slot(
    engine: Engine, recipe: messages.Recipe, limits: Limits, first_key: FirstKey | None = None
) -> cache.Slot:
    """The place of the engine's workload in the cache. Raises like `engine.open`."""
    opened = engine.open()
    fingerprint = engine.take_fingerprint()
    name = ""
    if fingerprint.parts:
        asked = {field: getattr(recipe, field) for field in RECIPE_FIELDS_OF_CACHE}
        asked |= {"world_size": engine.ranks} if engine.ranks > 1 else {}
        name = cache.name_of(fingerprint.parts, limits, opened.device, asked, os.environ)

    def remember(entry: str) -> None:
        if first_key is not None and fingerprint.files is not None:
            first_key.keep(entry, device=opened.device, workload=opened.workload, files=fingerprint.files)

    return cache.Slot(
        name, limits, opened.device, opened.workload, why_not=fingerprint.detail, remember=remember
    )


class Watch(Observer):
    """Passes everything on to the observer and the journal, and keeps the facts of the environment record."""

    def __init__(self, observer: Observer | None, limits: Limits, journal: Journal | None = None) -> None:
        """Without a `journal` no row is saved before the answer."""
        self._observer = observer or Observer()
        self._limits = limits
        self._journal = journal
        self._torch = ""
        self._started_at = datetime.now(timezone.utc)
        self._begin = time.monotonic()

    def opened(self, opened: Opened) -> None:
        self._torch = opened.torch
        if self._journal is not None:
            self._journal.opened(
                opened.workload,
                opened.device,
                self._limits,
                self._environment(),
                world_size=opened.world_size,
            )
        self._observer.opened(opened)

    def trying(self, batch_size: int) -> None:
        self._observer.trying(batch_size)

    def tried(self, trial: Trial) -> None:
        if self._journal is not None:
            self._journal.tried(trial)
        self._observer.tried(trial)

    def checking(self, what: str) -> None:
        self._observer.checking(what)

    def finished(self) -> None:
        """The search has its answer."""
        if self._journal is not None:
            self._journal.finished()

    def answer(self, curve: Curve, check: Check | None, *, contended: bool) -> Recommendation:
        """The recommendation of a curve, with the place and time of its measurement."""
        if contended and curve.device.kind == "cpu":
            warning = "the machine is busy, so timings are less reliable: rerun on an idle machine"
            curve = replace(curve, warnings=(*curve.warnings, warning))
        return replace(recommend(curve, check, self._limits), environment=self._environment())

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
