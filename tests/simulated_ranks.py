"""Ranks without processes: the real leader, members and merging, on simulated devices and a simulated store.

Only the transport is replaced. It has a clock: a message takes time on the way and in the store, a rank takes
the time of its device, and the leader waits for the last answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from autobatch.devices.oom import Cause
from autobatch.engines import messages
from autobatch.engines.ranks import rank_messages
from autobatch.engines.ranks.follower import Member
from autobatch.engines.ranks.leader import RankedEngine
from autobatch.engines.ranks.rank_messages import End, Place, Roster
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from tests.simulated import Machine, SimulatedEngine

# A failure reaches the other ranks within this time: they ask twice a second.
_STOPPED_SECONDS = 0.5


@dataclass(frozen=True)
class Network:
    """The cost of messages: seconds on the way, of the store for each, and between questions of a rank."""

    latency_seconds: float = 0.0
    store_seconds: float = 0.0
    poll_seconds: float = 0.0


class RankEngine(SimulatedEngine):
    """A simulated device that other ranks' sessions can be joined with, for `join_seconds` each time."""

    def __init__(self, machine: Machine, join_seconds: float = 0.0) -> None:
        super().__init__(machine)
        self._join_seconds = join_seconds
        self.groups: list[messages.Group | None] = []
        self.begin_seconds = 0.0

    @property
    def now_seconds(self) -> float:
        """Seconds that this rank has worked."""
        return self._backend.now()

    def join(self, group: messages.Group | None, stopped: Callable[[], bool] = lambda: False) -> None:
        self.renew()
        self.groups.append(group)
        self._backend.pass_time(self._join_seconds)


class SimulatedStore:
    """The store as the leader sees it: an order that is put is answered by all other ranks at once.

    `silent`: ranks that don't answer any more, from an order's number on; `noticed`: the sessions of others
    fail with theirs, as where a machine is gone.
    """

    def __init__(self, engines: Sequence[RankEngine], network: Network | None = None) -> None:
        self._network = network or Network()
        self._engines = engines
        self._arrivals: dict[str, float] = {}
        self._messages: dict[str, bytes] = {}
        self._waited_seconds = 0.0
        self.silent: dict[int, int] = {}
        self.noticed = False
        self.members: list[Member] = []
        self.orders = 0
        self.messages = 0
        # Seconds of the leader's orders beyond the work of the slowest rank.
        self.agreeing_seconds = 0.0
        self._put = (0.0, 0.0)
        self._work_seconds = 0.0

    @property
    def now_seconds(self) -> float:
        """The leader's clock: the seconds of its device, and those of waiting."""
        return self._engines[0].now_seconds + self._waited_seconds

    def put(self, key: str, message: bytes) -> None:
        self._put = (self.now_seconds, self._engines[0].now_seconds)
        self._wait(self._network.latency_seconds + self._network.store_seconds)
        self._keep(key, message, self.now_seconds)
        if key.startswith("order/"):
            self.orders += 1
            decoded = rank_messages.decode_message(message)
            if not isinstance(decoded, End):
                self._answer(int(key.partition("/")[2]), decoded)

    def get(self, keys: Sequence[str], timeout_seconds: float, *, unless: str = "") -> dict[str, bytes]:
        deadline = self.now_seconds + timeout_seconds
        if unless in self._arrivals and any(key not in self._arrivals for key in keys):
            deadline = min(deadline, self._arrivals[unless])
        last = max((self._arrivals.get(key, deadline) for key in keys), default=self.now_seconds)
        self._wait(min(last, deadline) - self.now_seconds + self._network.poll_seconds / 2)
        self._wait(2 * self._network.latency_seconds + len(keys) * self._network.store_seconds)
        self.messages += len(keys)
        begin, leader_begin = self._put
        work_seconds = max(self._work_seconds, self._engines[0].now_seconds - leader_begin)
        self.agreeing_seconds += self.now_seconds - begin - work_seconds
        self._put = (self.now_seconds, self._engines[0].now_seconds)
        self._work_seconds = 0.0
        return {key: self._messages[key] for key in keys if self._arrivals.get(key, deadline + 1) <= deadline}

    def has(self, key: str) -> bool:
        return key in self._messages

    def _wait(self, seconds: float) -> None:
        self._waited_seconds += max(0.0, seconds)

    def _keep(self, key: str, message: bytes, at_seconds: float) -> None:
        self.messages += 1
        self._messages[key] = message
        self._arrivals[key] = at_seconds

    def _answer(self, number: int, order: rank_messages.Order) -> None:
        """All other ranks fetch an order one after the other, do it at once, and answer."""
        network, begin = self._network, self.now_seconds
        ready: list[tuple[float, float, int, bytes]] = []
        for member in self.members[1:]:
            engine = self._engines[member.rank]
            if number >= self.silent.get(member.rank, number + 1):
                if self.noticed:
                    self._keep(rank_messages.failed_key(number), b"1", begin)
                continue
            fetched = begin + network.poll_seconds / 2 + network.latency_seconds
            fetched += member.rank * network.store_seconds
            engine.begin_seconds = engine.now_seconds
            answer = member.answer(number, order)
            took_seconds = engine.now_seconds - engine.begin_seconds
            ready.append((fetched, took_seconds, member.rank, rank_messages.encode(answer)))
        self._hand_in(number, begin, ready)

    def _hand_in(self, number: int, begin: float, ready: Sequence[tuple[float, float, int, bytes]]) -> None:
        """The answers, through a store that takes one after the other; a failure ends the work of all."""
        failed = self._arrivals.get(rank_messages.failed_key(number))
        most_seconds = float("inf") if failed is None else failed - begin + _STOPPED_SECONDS
        self._work_seconds = max((min(took, most_seconds) for _, took, _, _ in ready), default=0.0)
        free = 0.0
        arriving = sorted((at + min(took, most_seconds), rank, answer) for at, took, rank, answer in ready)
        for at_seconds, rank, answer in arriving:
            free = max(free, at_seconds + self._network.latency_seconds) + self._network.store_seconds
            self._keep(rank_messages.answer_key(number, rank), answer, free)


class RankView:
    """The store as another rank sees it: only its own messages count, since orders are handed to it."""

    def __init__(self, store: SimulatedStore, engine: RankEngine) -> None:
        self._store = store
        self._engine = engine

    def put(self, key: str, message: bytes) -> None:
        at_seconds = self._store.now_seconds + self._engine.now_seconds - self._engine.begin_seconds
        if at_seconds < self._store._arrivals.get(key, float("inf")):
            self._store._keep(key, message, at_seconds)

    def get(self, keys: Sequence[str], timeout_seconds: float, *, unless: str = "") -> dict[str, bytes]:
        raise NotImplementedError("orders are handed to the members")

    def has(self, key: str) -> bool:
        return self._store.has(key)


def ranked(
    machines: Sequence[Machine],
    limits: Limits,
    network: Network | None = None,
    join_seconds: float = 0.0,
) -> tuple[RankedEngine, SimulatedStore, list[RankEngine]]:
    """The leader's engine over one rank for each machine, the store, and the engines of the ranks."""
    engines = [RankEngine(machine, join_seconds) for machine in machines]
    store = SimulatedStore(engines, network)
    place = Place(local_rank=0, local_ranks=1)
    roster = Roster(places=(place,) * len(machines), host="simulated", port=0)
    for rank, engine in enumerate(engines):
        transport = store if rank == 0 else RankView(store, engine)
        store.members.append(Member(engine, transport, roster, rank, limits.trial_timeout_seconds))
    return RankedEngine(store.members[0], limits), store, engines


def tried(outcome: Outcome = Outcome.OK, cause: Cause | None = None, detail: str = "") -> messages.Tried:
    """The reply of a rank to a try at 8 samples."""
    reply = messages.Tried(
        batch_size=8, outcome=outcome, cause=cause, detail=detail, phase="forward", steps=3
    )
    if outcome is not Outcome.OK:
        return reply
    return msgspec.structs.replace(
        reply, step_seconds=0.1, load_seconds=0.01, peak_bytes=100, reserved_bytes=120, optimizer_steps=3
    )


def alike(machine: Machine, ranks: int) -> list[Machine]:
    """The same machine for each rank, with another seed of its noise."""
    return [replace(machine, seed=machine.seed + rank) for rank in range(ranks)]
