"""How ranks find each other: by torchrun's variables, or through the process group that they have already.

Either has a store, which is used for one thing only: to say who is there, and where the leader's own store
is. All else goes through that one, so that the user's group is as it was.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from autobatch.distributed import orders
from autobatch.distributed.orders import Hello, Place, Roster
from autobatch.distributed.transport import StoreTransport
from autobatch.errors import AutobatchError, UsageError

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Counts the meetings of each rank, so that those of one search meet each other.
_COUNT_KEY = "autobatch/meetings/{restart}/{rank}"


@dataclass(frozen=True, slots=True)
class Meeting:
    """The ranks that are to meet. `in_group`: they have a process group; else torchrun's variables."""

    rank: int
    ranks: int
    in_group: bool

    @contextlib.contextmanager
    def met(self, timeout_seconds: float) -> Iterator[tuple[StoreTransport, Roster]]:
        """Where ranks talk, and their roster, once all of them are there.

        Raises AutobatchError where some of them don't come in time.
        """
        try:
            store, prefix = self._own_prefix(timeout_seconds)
        except (RuntimeError, ValueError) as error:
            raise _unreachable(os.environ.get("MASTER_ADDR", ""), error) from error
        lobby = StoreTransport(_prefixed(prefix, store), self.ranks)
        lobby.put(orders.hello_key(self.rank), orders.encode(Hello(machine=socket.gethostname())))
        if self.rank == 0:
            transport, roster = self._convene(lobby, timeout_seconds)
        else:
            found = lobby.get([orders.ROSTER], 2 * timeout_seconds)
            if orders.ROSTER not in found:
                raise self._missing([0], timeout_seconds)
            roster = orders.decode_roster(found[orders.ROSTER])
            transport = StoreTransport(_connect(roster.host, roster.port, timeout_seconds), self.ranks)
        try:
            yield transport, roster
        finally:
            transport.close()

    def _own_prefix(self, timeout_seconds: float) -> tuple[Store, str]:
        import torch.distributed as dist

        if self.in_group:
            assert dist.group.WORLD is not None
            store = dist.group.WORLD.get_group_store()
        else:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_seconds)))
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        count = store.add(_COUNT_KEY.format(restart=restart, rank=self.rank), 1)
        return store, f"autobatch/{restart}/{count}"

    def _convene(self, lobby: StoreTransport, timeout_seconds: float) -> tuple[StoreTransport, Roster]:
        """The leader's store, and the roster that tells all others of it."""
        keys = [orders.hello_key(rank) for rank in range(self.ranks)]
        found = lobby.get(keys, timeout_seconds)
        missing = [rank for rank, key in enumerate(keys) if key not in found]
        if missing:
            raise self._missing(missing, timeout_seconds)
        machines = [orders.decode_hello(found[key]).machine for key in keys]
        together = len(set(machines)) == 1
        host = "127.0.0.1" if together else os.environ.get("MASTER_ADDR") or machines[0]
        store = _serve(host, timeout_seconds)
        roster = Roster(places=places(machines), host=host, port=store.port)
        lobby.put(orders.ROSTER, orders.encode(roster))
        return StoreTransport(store, self.ranks), roster

    def _missing(self, missing: list[int], timeout_seconds: float) -> AutobatchError:
        hint = "start it with torchrun on all machines; to measure one process alone, unset `RANK`"
        if self.in_group:
            hint = "call `autobatch.find` on every rank of the process group; all of them get its answer"
        return AutobatchError(
            f"{len(missing):,} of {self.ranks:,} ranks did not come within {timeout_seconds:g} s",
            code="rank_missing",
            facts=(f"the first of them: {', '.join(map(str, missing[:8]))}",),
            hint=hint,
        )


def of_environment(environment: Mapping[str, str] = os.environ) -> Meeting | None:
    """The ranks that torchrun, or who speaks like it, has started; None where there is one process only.

    Raises UsageError for variables that can't be meant.
    """
    if not all(environment.get(name) for name in _VARIABLES):
        return None
    try:
        rank, ranks = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    except ValueError:
        rank, ranks = -1, 0
    if not 0 <= rank < ranks:
        raise UsageError(
            "`RANK` and `WORLD_SIZE` don't name a rank",
            code="bad_rank",
            facts=tuple(f"{name}={environment[name]}" for name in _VARIABLES[:2]),
            hint="start it with torchrun, or unset them",
        )
    return Meeting(rank, ranks, in_group=False) if ranks > 1 else None


def of_group() -> Meeting | None:
    """The ranks of the default process group of this process; None without one, or alone in it."""
    # Who has not imported torch has no group.
    if "torch" not in sys.modules:
        return None
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return Meeting(dist.get_rank(), dist.get_world_size(), in_group=True)


def places(machines: list[str]) -> tuple[Place, ...]:
    """Each rank's place among those of the same machine, in the order of the ranks."""
    return tuple(
        Place(local_rank=machines[:rank].count(name), local_ranks=machines.count(name))
        for rank, name in enumerate(machines)
    )


def _prefixed(prefix: str, store: Store) -> Store:
    import torch.distributed as dist

    return dist.PrefixStore(prefix, store)


def _serve(host: str, timeout_seconds: float) -> TCPStore:
    """A store of this process. Raises AutobatchError where it can't be opened."""
    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_seconds)
    try:
        return dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
    except RuntimeError as error:
        raise _unreachable(host, error) from error


def _connect(host: str, port: int, timeout_seconds: float) -> Store:
    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_seconds)
    try:
        return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    except RuntimeError as error:
        raise _unreachable(host, error) from error


def _unreachable(host: str, error: Exception) -> AutobatchError:
    return AutobatchError(
        "the ranks can't reach the first one",
        code="rank_lost",
        facts=(f"at `{host}`", str(error).partition("\n")[0]),
        hint="set `MASTER_ADDR` to a name of its machine that all others know",
    )
