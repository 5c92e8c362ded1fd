"""`--engine ray`: the climb on the device that is here, the check's trainings on all nodes that have it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from autobatch import devices
from autobatch.decision.fleet import kind_of
from autobatch.engines import messages, worker_failures
from autobatch.engines.local import LocalEngine
from autobatch.engines.opening import EngineMaker
from autobatch.engines.ray import cluster
from autobatch.engines.ray.cluster import Node
from autobatch.engines.ray.nodes import read_node, train_here
from autobatch.engines.ray.tasks import LostError, run_each
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits


class RayEngine(LocalEngine):
    """Runs the check's trainings as tasks of a Ray cluster, all else in a worker process here."""

    def __init__(
        self,
        nodes: Sequence[Node],
        recipe: messages.Recipe,
        limits: Limits,
        device: str | None,
        environment: dict[str, str],
        on_output: Callable[[str], None],
    ) -> None:
        super().__init__(recipe, limits, device, environment, on_output)
        self._places = [place for node in nodes for place in node.places]
        self._there = as_sent(recipe), limits, _any_of(device)
        self._limit_seconds = (worker_failures.START_TRIALS + 1) * limits.trial_timeout_seconds
        self.trainings_at_once = len(self._places)

    def train_all(self, commands: Sequence[messages.Train]) -> Sequence[messages.Trained]:
        """The trainings, each on another device; a training that was lost twice has failed.

        Raises AutobatchError where the workload can't be made on a
        node, or no device is free in time.
        """
        # A training on the same device could not have the memory that the current session holds.
        self.renew()
        order = [[*self._places[number:], *self._places[:number]] for number in range(len(commands))]
        limit = max(command.seconds for command in commands) + self._limit_seconds
        replies = run_each(train_here, [(*self._there, command) for command in commands], order, limit)
        return [_reply(command, reply) for command, reply in zip(commands, replies, strict=True)]


@contextlib.contextmanager
def ray_engines(
    address: str | None, recipe: messages.Recipe, device: str | None, warn: Callable[[str], None]
) -> Iterator[EngineMaker]:
    """Makes RayEngines for as long as the block lasts; `warn` hears of nodes that can't be used.

    Raises AutobatchError where there is no cluster, or none of its nodes is like this machine.
    """
    accelerated = _any_of(device) != "cpu"
    with cluster.connected(address, folder_of(recipe)):
        nodes, left_out = cluster.find_nodes(accelerated=accelerated)
        for why in left_out:
            warn(why)
        yield partial(RayEngine, _alike(nodes, accelerated))


def folder_of(recipe: messages.Recipe) -> Path | None:
    """The folder that has to go to the nodes: that of a model file; None for a module."""
    path = recipe.target.partition(":")[0]
    return Path(path).resolve().parent if path.endswith(".py") else None


def as_sent(recipe: messages.Recipe) -> messages.Recipe:
    """The recipe for a node, where a model file lies in the current folder."""
    if folder_of(recipe) is None:
        return recipe
    path, colon, attribute = recipe.target.partition(":")
    return msgspec.structs.replace(recipe, target=f"{Path(path).name}{colon}{attribute}")


def _alike(nodes: Sequence[Node], accelerated: bool) -> list[Node]:
    """The nodes with the device that is here. Raises AutobatchError where there is none."""
    here = read_node()
    kind = kind_of(here, cpus=here.cpus, gpus=len(here.gpus) if accelerated else 0)
    alike = [node for node in nodes if node.kind.device == kind.device and node.places]
    if alike:
        return alike
    raise AutobatchError(
        "no node of the Ray cluster has the device that is measured here",
        code="no_node_alike",
        facts=(f"here: {kind.name}", *sorted({f"there: {node.kind.name}" for node in nodes})),
        hint="run it on a node of the kind that you train on; `autobatch fleet` measures every kind",
    )


def _reply(command: messages.Train, reply: messages.Trained | AutobatchError) -> messages.Trained:
    if not isinstance(reply, AutobatchError):
        return reply
    # A loss that repeats comes from the training, and not from the workload or the cluster.
    if not isinstance(reply, LostError):
        raise reply
    return worker_failures.of_training(command, reply.message)


def _any_of(device: str | None) -> str | None:
    """The kind of a device: on another node, Ray chooses the device of that kind."""
    return devices.parse_name(device)[0] if device else None
