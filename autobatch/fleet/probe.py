"""`autobatch fleet`: every distinct kind of node of a Ray cluster, probed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autobatch import api
from autobatch._version import __version__
from autobatch.decision.fleet import assemble
from autobatch.engines import messages
from autobatch.engines.ray import cluster
from autobatch.engines.ray.cluster import Node
from autobatch.engines.ray.engine import as_sent, folder_of
from autobatch.engines.ray.nodes import print_here, train_as_without_ray
from autobatch.engines.ray.tasks import run_each
from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.fleet import Fleet, NodeKind, Prices
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation

# Beside its budget, a probe may spend that many trial timeouts at its start and on a last try.
_TRIALS_BESIDE = 15


def probe_fleet(
    recipe: messages.Recipe,
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
    with cluster.connected(address, folder_of(recipe)):
        nodes, left_out = cluster.find_nodes()
        kinds = _by_kind(nodes, left_out)
        _check_prices(prices, kinds)
        tell(f"probing {', '.join(kind.name for kind in kinds)}")
        limit = limits.budget_seconds + _TRIALS_BESIDE * limits.trial_timeout_seconds
        answers = run_each(
            _probe_here,
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


def _probe_here(recipe: messages.Recipe, limits: Limits, fresh: bool) -> Recommendation:
    """The whole search on this node. Raises like `api.probe`."""
    train_as_without_ray()
    return api.probe(recipe, limits, on_output=print_here, fresh=fresh)
