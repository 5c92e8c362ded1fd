"""Functions as Ray tasks: one on a device, each in a fresh process, a lost task once more elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autobatch.records.errors import AutobatchError
from autobatch.records.escaping import printable

# Seconds between two looks for Ctrl-C.
_POLL_SECONDS = 0.5
# A task may wait that long for a device that something else on the cluster holds.
QUEUE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device of a node, by what Ray has to set aside for it: a GPU with its share of the processors,
    or all processors of a node without one. `name` is the node's.
    """

    node: str
    name: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class _Attempt:
    number: int
    place: Place
    again: bool


def run_each(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    places: Sequence[Sequence[Place]],
    seconds: float,
) -> list[Any]:
    """The result of `function` for each of the `arguments`, or its AutobatchError.

    Each runs on the first of its `places`, in a process that has run nothing before. Where that process or
    its node is lost, it runs once more: on the first place of another node that is still there, else on the
    same. None takes more than `seconds`, and QUEUE_SECONDS before it. Ctrl-C ends all of them.
    """
    from ray import cancel

    results: list[Any] = [None] * len(arguments)
    running = {
        _submit(function, values, where[0]): _Attempt(number, where[0], again=False)
        for number, (values, where) in enumerate(zip(arguments, places, strict=True))
    }
    deadline = time.monotonic() + QUEUE_SECONDS + seconds
    try:
        while running:
            for task in _ended(list(running)):
                attempt = running.pop(task)
                number = attempt.number
                results[number] = _outcome(task, attempt)
                if not isinstance(results[number], LostError) or attempt.again:
                    continue
                if (place := _elsewhere(attempt.place, places[number])) is not None:
                    running[_submit(function, arguments[number], place)] = _Attempt(number, place, again=True)
                    deadline = time.monotonic() + QUEUE_SECONDS + seconds
            if time.monotonic() > deadline:
                for attempt in running.values():
                    results[attempt.number] = _too_late(attempt.place)
                break
    finally:
        for task in running:
            with contextlib.suppress(Exception):
                cancel(task, force=True)
    return results


def _ended(tasks: list[Any]) -> list[Any]:
    """Those that have ended, after a short wait. Raises KeyboardInterrupt on Ctrl-C."""
    from ray import wait

    try:
        ended: list[Any] = wait(tasks, timeout=_POLL_SECONDS)[0]
    except SystemError as error:
        # Python raises this for an interrupt in the middle of Ray's compiled code.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    return ended


class LostError(AutobatchError):
    """The process or the node is gone, and nothing is known of how it would have gone."""


def _submit(function: Callable[..., Any], arguments: tuple[Any, ...], place: Place) -> Any:
    from ray import remote
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        remote(max_calls=1, max_retries=0)(function)
        .options(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        )
        .remote(*arguments)
    )


def _outcome(task: Any, attempt: _Attempt) -> Any:
    from ray import get
    from ray.exceptions import RayError, RaySystemError, RayTaskError, RuntimeEnvSetupError

    name = printable(attempt.place.name)
    try:
        return get(task)
    except RayTaskError as error:
        if isinstance(error.cause, AutobatchError):
            return error.cause
        return _failed(name, error.cause or error)
    except (RaySystemError, RuntimeEnvSetupError) as error:
        return _failed(name, error)
    except RayError as error:
        times = "twice" if attempt.again else "once"
        return LostError(
            f"its process was lost {times}, at last on the node `{name}`",
            code="node_lost",
            facts=(f"{type(error).__name__}: {_first_line(error)}",),
            hint="look at the node's memory and at Ray's logs there",
        )


def _elsewhere(lost: Place, places: Sequence[Place]) -> Place | None:
    """Where to run again: another node if one is left, else the same; None where all are gone."""
    from ray import nodes

    alive = {node["NodeID"] for node in nodes() if node["Alive"]}
    left = [place for place in places if place.node in alive]
    return next((place for place in left if place.node != lost.node), next(iter(left), None))


def _failed(name: str, error: BaseException) -> AutobatchError:
    return AutobatchError(
        f"nothing can be run on the node `{name}`",
        code="node_failed",
        facts=(f"{type(error).__name__}: {_first_line(error)}",),
        hint="every node needs the same autobatch and torch as this machine",
    )


def _too_late(place: Place) -> AutobatchError:
    return AutobatchError(
        f"no end on the node `{printable(place.name)}` in time",
        code="node_too_late",
        facts=(f"a task waits {QUEUE_SECONDS:g} s at most for a device that something else holds",),
        hint="wait until the cluster has a free device, or look at `ray status`",
    )


def _first_line(error: BaseException) -> str:
    return printable(next(iter(str(error).strip().splitlines()), ""))[:500]
