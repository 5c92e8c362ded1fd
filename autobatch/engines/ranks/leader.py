"""The first rank leads: it alone decides what to measure; the others follow its orders until it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from autobatch.engines import messages, worker_failures
from autobatch.engines.base import Opened
from autobatch.engines.ranks import merging, rank_messages
from autobatch.engines.ranks.follower import INTERRUPTED, Member, has_failed
from autobatch.engines.ranks.rank_messages import Answer, Asked, Begin, End, Order
from autobatch.engines.worker_process import BOOT_TIMEOUT_SECONDS, COMPILE_TRIALS
from autobatch.records.errors import AutobatchError
from autobatch.records.interruption import Interrupted
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.records.workload import SampleSizes
from autobatch.storage import codec

# Once a rank's part has failed, every other one ends its own and says so within this time.
GRACE_SECONDS = 30.0
_Reply = TypeVar("_Reply")
# For the last word, after which the leader's store is gone.
_BYE_SECONDS = 5.0


class RankedEngine:
    """Runs every trial on all ranks at once, and gives the worst of what they say as one reply.

    Implements autobatch.engines.local.Engine. Where a step is traced and where the gradient's noise is
    measured, the first rank does it alone: neither depends on how many ranks there are.
    """

    def __init__(self, member: Member, limits: Limits) -> None:
        self._member = member
        self.ranks = len(member.roster.places)
        self._limits = limits
        self._number = 0
        self._begun = 0
        self._session = 1
        self._worker = 0
        self._opened: Opened | None = None
        self._spent = [(0.0, 0.0)] * self.ranks
        self.fresh = True
        self.busy_seconds = 0.0
        self.compile_seconds = 0.0
        self.trainings_at_once = 1

    @property
    def sizes(self) -> SampleSizes | None:
        return self._member.engine.sizes

    @property
    def local_ranks(self) -> int:
        """Ranks of the first one's machine."""
        return self._member.roster.places[0].local_ranks

    def open(self) -> Opened:
        """What the sessions of all ranks have found. Raises an error of theirs, and where they differ."""
        if self._opened is None:
            replies = [one for one in self._ask(Begin()) if isinstance(one, messages.Opened)]
            found = merging.opened(replies)
            self._opened = Opened(
                device=found.device, workload=found.workload, torch=found.torch, world_size=self.ranks
            )
        return self._opened

    def take_fingerprint(self) -> messages.Fingerprint:
        """What the first rank trains."""
        return self._member.engine.take_fingerprint()

    def try_out(
        self, batch_size: int, seconds: float, steps: int, *, sizes: tuple[int, ...] = ()
    ) -> messages.Tried:
        """A try of one size, or of `sizes` of each rank; whatever happens to any of them is its outcome."""
        asked = messages.TryOut(batch_size=batch_size, seconds=seconds, steps=steps, sizes=sizes)
        return merging.tried(self._try(asked))

    def time_round(
        self, batch_size: int, seconds: float, *, alone: bool = False, sizes: tuple[int, ...] = ()
    ) -> messages.Timed | messages.Tried:
        """One timing round; `alone` without communication, though on all ranks at once."""
        asked = messages.TimeRound(batch_size=batch_size, seconds=seconds, alone=alone, sizes=sizes)
        return merging.timed(self._try(asked))

    def time_each(self, batch_size: int, seconds: float) -> list[float]:
        """Seconds of each rank's own step, without communication. Raises AutobatchError where one fails."""
        replies = self._try(messages.TimeRound(batch_size=batch_size, seconds=seconds, alone=True))
        if isinstance(failed := merging.timed(replies), messages.Tried):
            raise AutobatchError(failed.detail, code="step_fails")
        return [one.step_seconds for one in replies if isinstance(one, messages.Timed)]

    def train(self, command: messages.Train) -> messages.Trained:
        """A short training of all ranks together."""
        found = self._ask(command, command.seconds)
        return merging.trained([one for one in found if isinstance(one, messages.Trained)])

    def train_all(self, commands: Sequence[messages.Train]) -> Sequence[messages.Trained]:
        """One training after the other: each takes all ranks."""
        return [self.train(command) for command in commands]

    def time_loader(self, command: messages.TimeLoader) -> messages.Loaded:
        """Seconds from batch to batch where all ranks load at once."""
        found = self._ask(command, command.seconds)
        return merging.loaded([one for one in found if isinstance(one, messages.Loaded)])

    def trace_memory(self, *, without_data: bool = False) -> messages.Traced:
        """The memory of a step of one rank without the others' gradients, which a ratio makes up for."""
        return self._alone(lambda: self._member.engine.trace_memory(without_data=without_data))

    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise:
        """The gradient's noise, by the first rank."""
        return self._alone(lambda: self._member.engine.measure_noise(command))

    def renew(self, *, worker: bool = False) -> None:
        """Lets the next trial run in fresh sessions on all ranks, or in fresh workers."""
        self._session += 1
        self._worker += worker
        self.fresh = True

    def close(self) -> None:
        """Nothing: each rank closes the engine that it has made."""

    def end(self, end: End) -> None:
        """Tells all ranks the last word, and waits until they have heard it, for seconds at most."""
        self._number += 1
        self._member.transport.put(rank_messages.order_key(self._number), rank_messages.encode(end))
        self._member.transport.get(
            [rank_messages.bye_key(rank) for rank in range(1, self.ranks)], _BYE_SECONDS
        )

    def _alone(self, work: Callable[[], _Reply]) -> _Reply:
        self._member.leave()
        try:
            return work()
        finally:
            engine = self._member.engine
            self._count([(engine.busy_seconds, engine.compile_seconds), *self._spent[1:]])
            self._member.leave()
            self.renew()

    def _try(self, asked: messages.TryOut | messages.TimeRound) -> list[messages.Tried | messages.Timed]:
        self.fresh = False
        found = self._ask(asked, asked.seconds)
        return [one for one in found if isinstance(one, (messages.Tried, messages.Timed))]

    def _ask(self, asked: Asked, seconds: float = 0.0) -> list[messages.Reply]:
        """What every rank replies, in their order. Raises the error of one that refused, or is lost."""
        self._number += 1
        order = Order(session=self._session, worker=self._worker, asked=asked)
        self._member.transport.put(rank_messages.order_key(self._number), rank_messages.encode(order))
        own = self._member.answer(self._number, order)
        slack = slack_seconds(self._limits, starts=self._begun != self._session)
        answers = [own, *self._gather(seconds + slack)]
        self._begun = self._session
        self._count([(one.busy_seconds, one.compile_seconds) for one in answers])
        replies = [one.reply for one in answers]
        if any(map(has_failed, replies)):
            self.renew()
        if (error := merging.refusal(replies)) is not None:
            raise error
        return replies

    def _gather(self, timeout_seconds: float) -> list[Answer]:
        """The answers of the other ranks."""
        transport, number = self._member.transport, self._number
        keys = [rank_messages.answer_key(number, rank) for rank in range(1, self.ranks)]
        found = transport.get(keys, timeout_seconds, unless=rank_messages.failed_key(number))
        if len(found) < len(keys) and transport.has(rank_messages.failed_key(number)):
            found = transport.get(keys, GRACE_SECONDS)
        lost = [rank for rank, key in enumerate(keys, start=1) if key not in found]
        if lost:
            raise lost_ranks(lost, self.ranks)
        return [rank_messages.decode_answer(found[key]) for key in keys]

    def _count(self, spent: list[tuple[float, float]]) -> None:
        """Adds what the slowest rank has spent since the last time."""
        pairs = list(zip(spent, self._spent, strict=True))
        self.busy_seconds += max(now[0] - before[0] for now, before in pairs)
        self.compile_seconds += max(now[1] - before[1] for now, before in pairs)
        self._spent = spent


def lead(engine: RankedEngine, work: Callable[[RankedEngine], Recommendation]) -> Recommendation:
    """The recommendation that `work` comes to, as every rank gets it. Its error is that of all ranks."""
    try:
        found = codec.render(work(engine))
    except AutobatchError as error:
        engine.end(End(error=messages.Refused.of(error)))
        raise
    except KeyboardInterrupt:
        engine.end(End(error=messages.Refused.of(AutobatchError("interrupted", code=INTERRUPTED))))
        raise
    engine.end(End(answer=found))
    return codec.parse(found)


def follow(member: Member, limits: Limits) -> Recommendation:
    """Does what the leader orders, and returns the recommendation that it comes to, or raises its error."""
    number = 0
    while True:
        number += 1
        message = rank_messages.decode_message(_next_order(member, number, limits))
        if isinstance(message, End):
            member.transport.put(rank_messages.bye_key(member.rank), b"1")
            return _ended(message)
        answer = member.answer(number, message)
        member.transport.put(rank_messages.answer_key(number, member.rank), rank_messages.encode(answer))


def slack_seconds(limits: Limits, *, starts: bool) -> float:
    """What an order may take beside the seconds that it says: a try that hangs, compiling, and a start."""
    trials = 1 + COMPILE_TRIALS + (worker_failures.START_TRIALS if starts else 0)
    return (BOOT_TIMEOUT_SECONDS if starts else 0.0) + trials * limits.trial_timeout_seconds


def lost_ranks(lost: list[int], ranks: int) -> AutobatchError:
    """The error for ranks that have not said anything in time."""
    return AutobatchError(
        f"{len(lost):,} of {ranks:,} ranks do not answer",
        code="rank_lost",
        facts=(f"the first of them: {', '.join(map(str, lost[:8]))}",),
        hint="see what they have printed; if they need more time, raise `--trial-timeout`",
    )


def _next_order(member: Member, number: int, limits: Limits) -> bytes:
    # Between two orders the leader may measure something alone.
    patience_seconds = limits.budget_seconds + 2 * slack_seconds(limits, starts=True)
    key = rank_messages.order_key(number)
    found = member.transport.get([key], patience_seconds)
    if key not in found:
        raise lost_ranks([0], len(member.roster.places))
    return found[key]


def _ended(end: End) -> Recommendation:
    if end.error is None:
        return codec.parse(end.answer)
    if end.error.code == INTERRUPTED:
        raise Interrupted(None)
    raise end.error.rebuilt()
