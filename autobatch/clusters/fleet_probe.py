"""`autobatch fleet`: every distinct kind of node of a Ray cluster, probed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autobatch._version import __version__
from autobatch.clusters import ray_cluster
from autobatch.clusters.ray_cluster import Node
from autobatch.clusters.ray_engine import as_sent, folder_of
from autobatch.clusters.ray_nodes import probe_here
from autobatch.clusters.ray_tasks import run_each
from autobatch.errors import AutobatchError, UsageError
from autobatch.fleet import Fleet, NodeKind, Prices, assemble
from autobatch.probe import wire
from autobatch.records import Limits

# Beside its budget, a probe may spend that many trial timeouts at its start and on a last try.
_TRIALS_BESIDE = 15


def probe_fleet(
    recipe: wire.Recipe,
    limits: Limits,
    prices: Prices | None,
    *,
    address: str | None,
    fresh: bool,
    tell: Callable[[str], None],
) -> Fleet:
    """Each kind of node with the answer of a probe on one of them; a failure is that kind's alone.

    `tell` hears what is being done. Raises AutobatchError where there is no cluster, and UsageError where all
    prices are for other kinds.
    """
    tell("looking at the nodes of the cluster")
    with ray_cluster.connected(address, folder_of(recipe)):
        nodes, left_out = ray_cluster.find_nodes()
        kinds = _by_kind(nodes, left_out)
        _check_prices(prices, kinds)
        tell(f"probing {', '.join(kind.name for kind in kinds)}")
        limit = limits.budget_seconds + _TRIALS_BESIDE * limits.trial_timeout_seconds
        answers = run_each(
            probe_here,
            [(as_sent(recipe), limits, fresh)] * len(kinds),
            [[one.places[0] for one in alike] for alike in kinds.values()],
            limit,
        )
    probed = [
        (kind, len(alike), answer) for (kind, alike), answer in zip(kinds.items(), answers, strict=True)
    ]
    return assemble(recipe.target, probed, prices, version=__version__, warnings=left_out)


def _by_kind(nodes: Sequence[Node], left_out: Sequence[str]) -> dict[NodeKind, list[Node]]:
    """The nodes that can train, by their kind. Raises AutobatchError where there are none."""
    kinds: dict[NodeKind, list[Node]] = {}
    for node in nodes:
        if node.places:
            kinds.setdefault(node.kind, []).append(node)
    if not kinds:
        raise AutobatchError(
            "no node of the Ray cluster can train",
            code="no_node",
            facts=(f"{len(nodes)} have neither a processor nor a GPU to give", *left_out),
            hint="`ray status` shows what the nodes have",
        )
    return kinds


def _check_prices(prices: Prices | None, kinds: dict[NodeKind, list[Node]]) -> None:
    """Raises UsageError where no price is for a kind that is there: before the measurements, not after."""
    known = [kind.name for kind in kinds]
    if prices is not None and not set(prices.per_hour).intersection(known):
        raise UsageError(
            "none of the prices is for a kind of node that the cluster has",
            code="bad_prices",
            facts=(f"it has {', '.join(f'`{name}`' for name in known)}",),
            hint="name the kinds in the file as they are named here",
        )
