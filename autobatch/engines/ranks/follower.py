"""The part of a rank: it follows the leader's orders on its engine, and answers with the reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.engines.ranks import rank_messages
from autobatch.engines.ranks.rank_messages import Answer, Begin, Order, Roster
from autobatch.engines.ranks.transport import Transport
from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Outcome

INTERRUPTED = "interrupted"
# Ranks wait for each other in a collective as long as that many trials: who hangs is ended before.
COLLECTIVE_TRIALS = 2


class JoiningEngine(Engine, Protocol):
    """An engine whose sessions can train with those of other ranks."""

    def join(self, group: messages.Group | None, stopped: Callable[[], bool] = ...) -> None: ...


class Member:
    """A rank with its engine. `_session`: the number of the session that it has joined; 0 without one."""

    def __init__(
        self, engine: JoiningEngine, transport: Transport, roster: Roster, rank: int, timeout_seconds: float
    ) -> None:
        """`timeout_seconds`: ranks wait so long for each other in a collective at most."""
        self.engine = engine
        self.transport = transport
        self.roster = roster
        self.rank = rank
        self._timeout_seconds = timeout_seconds
        self._number = 0
        self._session = 0
        self._worker = 0

    def leave(self) -> None:
        """Lets the engine's next session be that of this rank alone."""
        self.engine.join(None)
        self._session = 0

    def answer(self, number: int, order: Order) -> Answer:
        """This rank's answer to an order. Raises KeyboardInterrupt once the leader has been informed."""
        self._number = number
        if order.session != self._session:
            self._join(order)
        try:
            reply = self._reply(order.asked)
        except AutobatchError as error:
            reply = messages.Refused.of(error)
        except KeyboardInterrupt:
            interrupted = AutobatchError("interrupted", code=INTERRUPTED, facts=(f"rank {self.rank}",))
            self._send(number, self._answer(messages.Refused.of(interrupted)))
            raise
        if has_failed(reply):
            self.transport.put(rank_messages.failed_key(number), b"1")
        return self._answer(reply)

    def _send(self, number: int, answer: Answer) -> None:
        self.transport.put(rank_messages.failed_key(number), b"1")
        self.transport.put(rank_messages.answer_key(number, self.rank), rank_messages.encode(answer))

    def _answer(self, reply: messages.Reply) -> Answer:
        return Answer(
            reply=reply,
            busy_seconds=self.engine.busy_seconds,
            compile_seconds=self.engine.compile_seconds,
        )

    def _join(self, order: Order) -> None:
        if order.worker != self._worker:
            self.engine.renew(worker=True)
        self._session, self._worker = order.session, order.worker
        place = self.roster.places[self.rank]
        self.engine.join(
            messages.Group(
                rank=self.rank,
                ranks=len(self.roster.places),
                local_rank=place.local_rank,
                local_ranks=place.local_ranks,
                host=self.roster.host,
                port=self.roster.port,
                prefix=f"session/{order.session}",
                timeout_seconds=self._timeout_seconds,
            ),
            lambda: self.transport.has(rank_messages.failed_key(self._number)),
        )

    def _reply(self, asked: rank_messages.Asked) -> messages.Reply:
        engine = self.engine
        if isinstance(asked, Begin):
            opened = engine.open()
            return messages.Opened(device=opened.device, workload=opened.workload, torch=opened.torch)
        if isinstance(asked, messages.TryOut):
            return engine.try_out(self._size(asked), asked.seconds, asked.steps)
        if isinstance(asked, messages.TimeRound):
            return engine.time_round(self._size(asked), asked.seconds, alone=asked.alone)
        if isinstance(asked, messages.Train):
            return engine.train_all([asked])[0]
        return engine.time_loader(asked)

    def _size(self, asked: messages.TryOut | messages.TimeRound) -> int:
        """The size of this rank, which differs from the common one where the order has `sizes`."""
        return asked.sizes[self.rank] if asked.sizes else asked.batch_size


def has_failed(reply: messages.Reply) -> bool:
    """True where a rank's session is gone, or good for nothing, after its reply."""
    if isinstance(reply, messages.Tried):
        return reply.outcome is not Outcome.OK
    if isinstance(reply, messages.Trained):
        return reply.training is not None and reply.training.outcome is not Outcome.OK
    if isinstance(reply, messages.Loaded):
        return reply.batch_seconds is None
    return isinstance(reply, messages.Refused)
