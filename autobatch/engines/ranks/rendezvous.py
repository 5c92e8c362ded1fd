"""The rendezvous of ranks: by torchrun's store, or through their process group.

That store is used for one thing only: to list the ranks and the address of the leader's store. All else goes
through the leader's store, so that the user's group stays as it was.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from autobatch.engines.ranks import rank_messages
from autobatch.engines.ranks.membership import Meeting
from autobatch.engines.ranks.rank_messages import Hello, Place, Roster
from autobatch.engines.ranks.transport import StoreTransport
from autobatch.records.errors import AutobatchError

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

# Counts the meetings of each rank, so that those of one search meet each other.
_COUNT_KEY = "autobatch/meetings/{restart}/{rank}"


@contextlib.contextmanager
def met(meeting: Meeting, timeout_seconds: float) -> Iterator[tuple[StoreTransport, Roster]]:
    """The transport between ranks, and their roster, once all of them are there.

    Raises AutobatchError where some of them don't come in time.
    """
    try:
        store, prefix = _store_and_prefix(meeting, timeout_seconds)
    except (RuntimeError, ValueError) as error:
        raise _unreachable(os.environ.get("MASTER_ADDR", ""), error) from error
    meeting_store = StoreTransport(_prefixed(prefix, store), meeting.ranks)
    meeting_store.put(
        rank_messages.hello_key(meeting.rank), rank_messages.encode(Hello(machine=socket.gethostname()))
    )
    if meeting.rank == 0:
        transport, roster = _convene(meeting, meeting_store, timeout_seconds)
    else:
        rosters = meeting_store.get([rank_messages.ROSTER], 2 * timeout_seconds)
        if rank_messages.ROSTER not in rosters:
            raise _missing(meeting, [0], timeout_seconds)
        roster = rank_messages.decode_roster(rosters[rank_messages.ROSTER])
        transport = StoreTransport(_store_at(roster.host, roster.port, timeout_seconds), meeting.ranks)
    try:
        yield transport, roster
    finally:
        transport.close()


def _store_and_prefix(meeting: Meeting, timeout_seconds: float) -> tuple[Store, str]:
    import torch.distributed as dist

    if meeting.in_group:
        assert dist.group.WORLD is not None
        store = dist.group.WORLD.get_group_store()
    else:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_seconds)))
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    count = store.add(_COUNT_KEY.format(restart=restart, rank=meeting.rank), 1)
    return store, f"autobatch/{restart}/{count}"


def _convene(
    meeting: Meeting, meeting_store: StoreTransport, timeout_seconds: float
) -> tuple[StoreTransport, Roster]:
    """The leader's store, and the roster that names its address."""
    keys = [rank_messages.hello_key(rank) for rank in range(meeting.ranks)]
    hellos = meeting_store.get(keys, timeout_seconds)
    missing = [rank for rank, key in enumerate(keys) if key not in hellos]
    if missing:
        raise _missing(meeting, missing, timeout_seconds)
    machines = [rank_messages.decode_hello(hellos[key]).machine for key in keys]
    together = len(set(machines)) == 1
    host = "127.0.0.1" if together else os.environ.get("MASTER_ADDR") or machines[0]
    store = _store_at(host, 0, timeout_seconds)
    roster = Roster(places=places(machines), host=host, port=store.port)
    meeting_store.put(rank_messages.ROSTER, rank_messages.encode(roster))
    return StoreTransport(store, meeting.ranks), roster


def _missing(meeting: Meeting, missing: list[int], timeout_seconds: float) -> AutobatchError:
    hint = "start it with torchrun on all machines; to measure one process alone, unset `RANK`"
    if meeting.in_group:
        hint = "call `autobatch.find` on every rank of the process group; all of them get its answer"
    return AutobatchError(
        f"{len(missing):,} of {meeting.ranks:,} ranks did not come within {timeout_seconds:g} s",
        code="rank_missing",
        facts=(f"the first of them: {', '.join(map(str, missing[:8]))}",),
        hint=hint,
    )


def places(machines: list[str]) -> tuple[Place, ...]:
    """Each rank's place among those of the same machine, in the order of the ranks."""
    return tuple(
        Place(local_rank=machines[:rank].count(name), local_ranks=machines.count(name))
        for rank, name in enumerate(machines)
    )


def _prefixed(prefix: str, store: Store) -> Store:
    import torch.distributed as dist

    return dist.PrefixStore(prefix, store)


def _store_at(host: str, port: int, timeout_seconds: float) -> TCPStore:
    """The store at a port of the host; at port 0 one of this process, on any port that is free.

    Raises AutobatchError where there is none.
    """
    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_seconds)
    try:
        return dist.TCPStore(host, port, is_master=port == 0, wait_for_workers=False, timeout=timeout)
    except RuntimeError as error:
        raise _unreachable(host, error) from error


def _unreachable(host: str, error: Exception) -> AutobatchError:
    return AutobatchError(
        "the ranks can't reach the first one",
        code="rank_lost",
        facts=(f"at `{host}`", str(error).partition("\n")[0]),
        hint="set `MASTER_ADDR` to a name of its machine that all others know",
    )
