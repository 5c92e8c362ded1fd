"""The first rank leads: it alone decides on measurements; the others follow its orders until it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from autobatch.engines import messages, trace_messages, worker_failures
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

# Once a rank has failed, every other rank ends its part and answers within this time.
GRACE_SECONDS = 30.0
_Reply = TypeVar("_Reply")
# For the last order, after which the leader's store is gone.
_BYE_SECONDS = 5.0


class RankedEngine:
    """Runs every trial on all ranks at once. The worst of their replies is the reply.

    Implements autobatch.engines.base.Engine. The first rank alone traces a step and measures the kind of loss
    and the gradient's noise: none depends on the number of ranks.
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
    def start_seconds(self) -> float:
        """Those of the first rank: all ranks start at the same time."""
        return self._member.engine.start_seconds

    @property
    def local_ranks(self) -> int:
        """The ranks on the machine of the first rank."""
        return self._member.roster.places[0].local_ranks

    def open(self) -> Opened:
        """The facts of the sessions of all ranks. Raises an error of theirs, and where they differ."""
        if self._opened is None:
            replies = [reply for reply in self._ask(Begin()) if isinstance(reply, messages.Opened)]
            merged = merging.opened(replies)
            self._opened = Opened(
                device=merged.device, workload=merged.workload, torch=merged.torch, world_size=self.ranks
            )
        return self._opened

    def take_fingerprint(self) -> messages.Fingerprint:
        """The digests of the workload of the first rank."""
        return self._member.engine.take_fingerprint()

    def try_out(
        self, batch_size: int, seconds: float, steps: int, *, sizes: tuple[int, ...] = ()
    ) -> messages.Tried:
        """A try of one size, or of `sizes`, one for each rank; the worst end of a rank is the outcome."""
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
        return [reply.step_seconds for reply in replies if isinstance(reply, messages.Timed)]

    def train(self, command: messages.Train) -> messages.Trained:
        """A short training of all ranks together."""
        replies = self._ask(command, command.seconds)
        return merging.trained([reply for reply in replies if isinstance(reply, messages.Trained)])

    def train_all(self, commands: Sequence[messages.Train]) -> Sequence[messages.Trained]:
        """One training after the other: each takes all ranks."""
        return [self.train(command) for command in commands]

    def time_loader(self, command: messages.TimeLoader) -> messages.Loaded:
        """Seconds from batch to batch where all ranks load at once."""
        replies = self._ask(command, command.seconds)
        return merging.loaded([reply for reply in replies if isinstance(reply, messages.Loaded)])

    def trace_memory(self, *, without_data: bool = False) -> trace_messages.Traced:
        """The memory of a step of the first rank. A ratio makes up for the gradients of the others."""
        return self._alone(lambda: self._member.engine.trace_memory(without_data=without_data))

    def measure_loss_kind(self, command: messages.MeasureLossKind) -> messages.LossForm:
        """The kind of loss, by the first rank."""
        return self._alone(lambda: self._member.engine.measure_loss_kind(command))

    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise:
        """The gradient's noise, by the first rank."""
        return self._alone(lambda: self._member.engine.measure_noise(command))

    def renew(self, *, worker: bool = False) -> None:
        """Lets the next trial run in fresh sessions on all ranks, or in fresh workers."""
        self._session += 1
        self._worker += worker
        self.fresh = True

    def close(self) -> None:
        """Nothing to end here: each rank closes its engine."""

    def end(self, end: End) -> None:
        """Gives all ranks the last order, and waits for seconds until they have received it."""
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
        replies = self._ask(asked, asked.seconds)
        return [reply for reply in replies if isinstance(reply, (messages.Tried, messages.Timed))]

    def _ask(self, asked: Asked, seconds: float = 0.0) -> list[messages.Reply]:
        """The replies of all ranks, in their order. Raises the error of a rank that refused, or is lost."""
        self._number += 1
        order = Order(session=self._session, worker=self._worker, asked=asked)
        self._member.transport.put(rank_messages.order_key(self._number), rank_messages.encode(order))
        leader_answer = self._member.answer(self._number, order)
        slack = slack_seconds(self._limits, starts=self._begun != self._session)
        answers = [leader_answer, *self._gather(seconds + slack)]
        self._begun = self._session
        self._count([(answer.busy_seconds, answer.compile_seconds) for answer in answers])
        replies = [answer.reply for answer in answers]
        if any(map(has_failed, replies)):
            self.renew()
        if (error := merging.refusal(replies)) is not None:
            raise error
        return replies

    def _gather(self, timeout_seconds: float) -> list[Answer]:
        """The answers of the other ranks."""
        transport, number = self._member.transport, self._number
        keys = [rank_messages.answer_key(number, rank) for rank in range(1, self.ranks)]
        answers = transport.get(keys, timeout_seconds, unless=rank_messages.failed_key(number))
        if len(answers) < len(keys) and transport.has(rank_messages.failed_key(number)):
            answers = transport.get(keys, GRACE_SECONDS)
        lost = [rank for rank, key in enumerate(keys, start=1) if key not in answers]
        if lost:
            raise lost_ranks(lost, self.ranks)
        return [rank_messages.decode_answer(answers[key]) for key in keys]

    def _count(self, spent: list[tuple[float, float]]) -> None:
        """Adds the seconds that the slowest rank has spent since the last time."""
        pairs = list(zip(spent, self._spent, strict=True))
        self.busy_seconds += max(after[0] - before[0] for after, before in pairs)
        self.compile_seconds += max(after[1] - before[1] for after, before in pairs)
        self._spent = spent


def lead(engine: RankedEngine, work: Callable[[RankedEngine], Recommendation]) -> Recommendation:
    """The recommendation of `work`, as every rank gets it. Its error is that of all ranks."""
    try:
        answer = codec.render(work(engine))
    except AutobatchError as error:
        engine.end(End(error=messages.Refused.of(error)))
        raise
    except KeyboardInterrupt:
        engine.end(End(error=messages.Refused.of(AutobatchError("interrupted", code=INTERRUPTED))))
        raise
    engine.end(End(answer=answer))
    return codec.parse(answer)


def follow(member: Member, limits: Limits) -> Recommendation:
    """Follows the leader's orders. Returns its recommendation, or raises its error."""
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
    """Seconds that an order may take beyond its own: a try that hangs, compiling, and a start."""
    trials = 1 + COMPILE_TRIALS + (worker_failures.START_TRIALS if starts else 0)
    return (BOOT_TIMEOUT_SECONDS if starts else 0.0) + trials * limits.trial_timeout_seconds


def lost_ranks(lost: list[int], ranks: int) -> AutobatchError:
    """The error for ranks that have not answered in time."""
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
    orders = member.transport.get([key], patience_seconds)
    if key not in orders:
        raise lost_ranks([0], len(member.roster.places))
    return orders[key]


def _ended(end: End) -> Recommendation:
    if end.error is None:
        return codec.parse(end.answer)
    if end.error.code == INTERRUPTED:
        raise Interrupted(None)
    raise end.error.rebuilt()
