"""The ranks of this search: those of torchrun's variables, or those of a process group.

Every start asks for them, so only the rendezvous imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from autobatch.records.errors import UsageError

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Meeting:
    """The ranks that are to meet. `in_group`: they have a process group; else torchrun's variables."""

    rank: int
    ranks: int
    in_group: bool


def of_environment(environment: Mapping[str, str] = os.environ) -> Meeting | None:
    """The ranks that torchrun, or a launcher like it, has started; None for a single process.

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
    # A process that has not imported torch has no group.
    if "torch" not in sys.modules:
        return None
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return Meeting(dist.get_rank(), dist.get_world_size(), in_group=True)
