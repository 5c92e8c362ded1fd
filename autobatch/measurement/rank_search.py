"""A search by the engine of this process, or by all ranks that meet."""

from __future__ import annotations

from collections.abc import Callable

from autobatch.decision import scaling
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.engines.local import LocalEngine
from autobatch.engines.opening import EngineMaker, new_engine
from autobatch.engines.ranks.follower import COLLECTIVE_TRIALS, Member
from autobatch.engines.ranks.leader import RankedEngine, follow, lead
from autobatch.engines.ranks.membership import Meeting
from autobatch.engines.ranks.rendezvous import met
from autobatch.measurement.climb import Observer
from autobatch.measurement.pipeline import Watch, run
from autobatch.records.errors import UsageError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.storage.first_key import FirstKey
from autobatch.storage.journal import Journal


def search(
    recipe: messages.Recipe,
    limits: Limits,
    *,
    device: str | None,
    observer: Observer | None = None,
    on_output: Callable[[str], None] | None = None,
    fresh: bool,
    make_engine: EngineMaker = LocalEngine,
    meeting: Meeting | None,
    first_key: FirstKey | None,
) -> Recommendation:
    """The recommendation by a worker: measured, or from the cache by the fingerprint that it takes."""
    if limits.sizes_per_rank and meeting is None:
        raise UsageError(
            "`sizes_per_rank` needs several ranks, and there is one",
            code="one_rank",
            hint="start it with torchrun, or call `find` on every rank of a process group",
        )
    # An error here is raised by every rank, before any of them waits for another.
    of_a_rank = scaling.limits_of_a_rank(limits, 1 if meeting is None else meeting.ranks)
    engine, contended = new_engine(recipe, limits, device, on_output, make_engine)

    def measured(engine: Engine) -> Recommendation:
        watch = Watch(observer, limits, Journal())
        return run(
            engine,
            recipe,
            limits,
            of_a_rank,
            watch,
            contended=contended,
            fresh=fresh,
            first_key=first_key,
        )

    try:
        if meeting is None:
            return measured(engine)
        with met(meeting, limits.trial_timeout_seconds) as (transport, roster):
            member = Member(
                engine, transport, roster, meeting.rank, COLLECTIVE_TRIALS * limits.trial_timeout_seconds
            )
            if meeting.rank:
                return follow(member, limits)
            return lead(RankedEngine(member, limits), measured)
    finally:
        engine.close()
