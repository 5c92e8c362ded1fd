"""`autobatch fleet`: probe each distinct kind of node of a Ray cluster once."""

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

# Beside its budget, a probe may take this many trial timeouts, at its start and for a last trial.
_EXTRA_TRIALS = 15


def probe_fleet(
    recipe: messages.Recipe,
    limits: Limits,
    prices: Prices | None,
    *,
    address: str | None,
    fresh: bool,
    tell: Callable[[str], None],
) -> Fleet:
    """Probe a node of each kind and compare the answers; a failure affects only its kind.

    `tell` receives progress messages. Raises AutobatchError where no cluster is reachable, and UsageError
    where no price is for a kind of the cluster.
    """
    tell("looking at the nodes of the cluster")
    with cluster.connected(address, folder_of(recipe)):
        nodes, left_out = cluster.find_nodes()
        kinds = _by_kind(nodes, left_out)
        _check_prices(prices, kinds)
        tell(f"probing {', '.join(kind.name for kind in kinds)}")
        limit = limits.budget_seconds + _EXTRA_TRIALS * limits.trial_timeout_seconds
        answers = run_each(
            _probe_here,
            [(as_sent(recipe), limits, fresh)] * len(kinds),
            [[node.places[0] for node in alike] for alike in kinds.values()],
            limit,
        )
    probed = [
        (kind, len(alike), answer) for (kind, alike), answer in zip(kinds.items(), answers, strict=True)
    ]
    return assemble(recipe.target, probed, prices, version=__version__, warnings=left_out)


def _by_kind(nodes: Sequence[Node], left_out: Sequence[str]) -> dict[NodeKind, list[Node]]:
    """The nodes that can train, by their kind. Raises AutobatchError where no node can."""
    kinds: dict[NodeKind, list[Node]] = {}
    for node in nodes:
        if node.places:
            kinds.setdefault(node.kind, []).append(node)
    if not kinds:
        raise AutobatchError(
            "no node of the Ray cluster can train",
            code="no_node",
            facts=(f"{len(nodes)} nodes have neither a free processor nor a free GPU", *left_out),
            hint="see the resources of the nodes with `ray status`",
        )
    return kinds


def _check_prices(prices: Prices | None, kinds: dict[NodeKind, list[Node]]) -> None:
    """Raises UsageError, before the measurements, where no price is for a kind of the cluster."""
    names = [kind.name for kind in kinds]
    if prices is not None and not set(prices.per_hour).intersection(names):
        raise UsageError(
            "no price is for a kind of node of the cluster",
            code="bad_prices",
            facts=(f"its kinds: {', '.join(f'`{name}`' for name in names)}",),
            hint="use these names in the price file",
        )


def _probe_here(recipe: messages.Recipe, limits: Limits, fresh: bool) -> Recommendation:
    """Run the whole search on this node. Raises like `api.probe`."""
    train_as_without_ray()
    return api.probe(recipe, limits, on_output=print_here, fresh=fresh)
