"""Tasks of a watched training: each takes steps of the script until it has its result."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .gradients import GradientSums

if TYPE_CHECKING:
    from .watch import Watch

# A size that has not come through after that many steps never will: workers prefetch fewer batches.
_MOST_LAG = 100
# The first steps show the training: so many as are asked for, or so long and these at least.
_FEWEST_OF_LOADER, _FEWEST, _SECONDS = 2, 3, 8.0
# Losses before and after a change of size: so few that the weights hardly differ.
_FEW = 3


@dataclass(frozen=True)
class Step:
    """One optimizer step of the script. `clean`: nothing but training happened since the last one.

    `sizes`: samples of each batch that was fetched for it; `shape`: that of the model's first tensor.
    `other_fetches`: batches that came from other loaders.
    `losses`: those that `backward` was called on. `losses_apart`: the optimizers that had one of their own.
    """

    seconds: float
    sizes: tuple[int | None, ...]
    backwards: int
    load_seconds: float
    clean: bool
    losses: tuple[Any, ...]
    shape: tuple[int, ...]
    losses_apart: int
    other_fetches: int

    @property
    def loss(self) -> float:
        """Sum over the micro batches, each of which the script divides as it likes."""
        return float(sum(float(loss) for loss in self.losses)) if self.losses else math.nan


class Task:
    """Takes steps until `result` is there. While `frozen`, no optimizer changes a weight."""

    frozen = False
    # Every learning rate of the script is replaced by its first one times this.
    learning_rate_factor: float | None = None
    waits_for_device = True

    def take(self, step: Step) -> None:
        raise NotImplementedError

    @property
    def done(self) -> bool:
        raise NotImplementedError

    def result(self) -> dict[str, Any]:
        raise NotImplementedError

    def gradients(self, optimizer: int, parts: list[Any], scale: float) -> None:
        """The gradients of an optimizer by its number, before its step; for tasks that freeze the weights."""


class Sized(Task):
    """A task at one size: steps count once their observed size is the one that was set.

    A process alone waits for that. Ranks may see it at different steps, and would then wait for each other.
    So they `settle` for a given number of steps, then take a given number of them, whatever their size.
    """

    def __init__(self, watch: Watch, order: dict[str, Any], steps: int) -> None:
        self._watch = watch
        self._size: int | None = order["batch_size"]
        self._settle: int | None = order["settle"]
        self._last = (self._settle or 0) + steps
        self._seen = 0
        self._lag = 0
        self._end = time.perf_counter() + order["seconds"]

    def fits(self, step: Step) -> bool:
        """Count a step; True where it is one of the size, after the ranks have settled."""
        self._seen += 1
        size = self._watch.size_of(step)
        fits = size is not None and (self._size is None or size == self._size)
        self._lag += 0 if fits else 1
        return fits and (self._settle is None or self._seen > self._settle)

    @property
    def has_ended(self) -> bool:
        """True where no further step is to be taken, whatever the task has by now."""
        return self._lag > _MOST_LAG if self._settle is None else self._seen >= self._last

    @property
    def is_late(self) -> bool:
        """True where the time for it is over, and no other rank waits for further steps."""
        return self._settle is None and time.perf_counter() > self._end


class Observe(Task):
    """The first steps as they are: `steps` of them, or fewer where they are slow."""

    waits_for_device = False

    def __init__(self, watch: Watch, steps: int) -> None:
        self._watch = watch
        self._steps = steps
        self._begin = time.perf_counter()
        self.taken: list[Step] = []

    def take(self, step: Step) -> None:
        if not self.taken:
            self._begin = time.perf_counter()
            # The memory of loading data and of initializing is no memory of a step.
            self._watch.memory.reset()
        self.taken.append(step)

    @property
    def done(self) -> bool:
        count = len(self.taken)
        # Ranks have to stop at the same step.
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        late = alone and time.perf_counter() - self._begin > _SECONDS
        # A loader says how many samples a step has; an input has to be seen more often.
        fewest = _FEWEST_OF_LOADER if self._watch.loader is not None else _FEWEST
        return count >= self._steps or (late and count >= fewest)

    def result(self) -> dict[str, Any]:
        return {"steps": len(self.taken)}


class Measure(Sized):
    """Times rounds of steps at one size."""

    def __init__(self, watch: Watch, order: dict[str, Any]) -> None:
        # Counted in steps, not in seconds: ranks that stop at different ones would wait for each other.
        self._rounds, self._round_steps = order["rounds"], order["round_steps"]
        self._warm_up = order["warm_up"]
        super().__init__(watch, order, self._warm_up + self._rounds * (self._round_steps + 1))
        self._seconds: list[float] = []
        self._steps: list[Step] = []
        self._pending: list[float] = []
        self._observed: int | None = None
        self._losses: list[float] = []
        watch.memory.reset()

    def take(self, step: Step) -> None:
        fits = self.fits(step)
        if fits or self._observed is None:
            self._observed = self._watch.size_of(step)
        if not fits or not step.clean:
            self._lag += 1 if fits else 0
            return
        self._losses.append(step.loss)
        if self._warm_up > 0:
            self._warm_up -= 1
            # Memory that the previous size has left behind does not count.
            self._watch.memory.reset()
            return
        self._steps.append(step)
        self._pending.append(step.seconds)
        if len(self._pending) >= self._round_steps:
            self._seconds.append(sum(self._pending) / len(self._pending))
            self._pending = []

    @property
    def done(self) -> bool:
        enough = self._settle is None and len(self._seconds) >= self._rounds
        return enough or self.has_ended or (self.is_late and bool(self._seconds or self._pending))

    def result(self) -> dict[str, Any]:
        if self._pending and not self._seconds:
            self._seconds.append(sum(self._pending) / len(self._pending))
        allocated, reserved = self._watch.memory.peak()
        return {
            "observed_size": self._observed,
            "round_seconds": self._seconds,
            "steps": len(self._steps),
            "load_seconds": median_load(self._steps),
            "peak_bytes": allocated,
            "reserved_bytes": reserved,
            "first_loss": _mean(self._losses[:_FEW]),
            "last_loss": _mean(self._losses[-_FEW:]),
        }


class Noise(Sized):
    """Independent gradients at frozen weights: one of each step of the script's own loop."""

    frozen = True
    waits_for_device = False

    def __init__(self, watch: Watch, order: dict[str, Any]) -> None:
        self._count: int = order["gradients"]
        super().__init__(watch, order, self._count + 1)
        self._width, self._seed = order["width"], order["seed"]
        self._fewest: int = order["fewest"]
        self._sums: dict[int, GradientSums] = {}
        self._current: dict[int, tuple[list[Any], float]] = {}

    def gradients(self, optimizer: int, parts: list[Any], scale: float) -> None:
        self._current[optimizer] = [None if part is None else part.detach().clone() for part in parts], scale

    def take(self, step: Step) -> None:
        current, self._current = self._current, {}
        # The first ones may hold gradients that were accumulated before the freeze.
        if self.fits(step) and self._seen > 1:
            for optimizer, parts in current.items():
                sums = self._sums.setdefault(optimizer, GradientSums(self._width, self._seed))
                sums.add(*parts)

    @property
    def done(self) -> bool:
        count = min((sums.count for sums in self._sums.values()), default=0)
        enough = self._settle is None and count >= self._count
        return enough or self.has_ended or (self.is_late and count >= self._fewest)

    def result(self) -> dict[str, Any]:
        return {"optimizers": [self._sums[optimizer].result() for optimizer in sorted(self._sums)]}


class Evaluate(Task):
    """The end of an epoch that was cut: done at the first step after the script's own evaluation."""

    waits_for_device = False

    def __init__(self) -> None:
        self._ended = False

    def take(self, step: Step) -> None:
        self._ended = self._ended or not step.clean

    @property
    def done(self) -> bool:
        return self._ended

    def result(self) -> dict[str, Any]:
        return {}


class Train(Sized):
    """A short training from a saved state at one size, all learning rates multiplied by a factor."""

    def __init__(self, watch: Watch, order: dict[str, Any]) -> None:
        self._count: int = order["steps"]
        super().__init__(watch, order, self._count)
        self._path: str = order["snapshot"]
        self.learning_rate_factor = float(order["learning_rate_factor"])
        self._waiting = True
        self._losses: list[float] = []
        self._seconds: list[float] = []

    def take(self, step: Step) -> None:
        fits = self.fits(step)
        if self._waiting:
            # Batches of the last size are still on their way: what they teach is put back.
            if fits if self._settle is None else self._seen == self._settle:
                self._waiting = False
                self._watch.restore(self._path)
            return
        self._losses.append(step.loss)
        self._seconds.append(step.seconds)

    @property
    def done(self) -> bool:
        enough = len(self._losses) >= self._count or (self.is_late and bool(self._losses))
        return enough or (self._waiting and self.has_ended)

    def result(self) -> dict[str, Any]:
        return {"losses": self._losses, "seconds": self._seconds}


def median_load(steps: Sequence[Step]) -> float | None:
    """The median seconds that steps waited for their batches; None for no steps."""
    loads = sorted(step.load_seconds for step in steps)
    return loads[len(loads) // 2] if loads else None


def _mean(losses: list[float]) -> float | None:
    """The mean of the losses that are numbers; None where none is."""
    numbers = [loss for loss in losses if math.isfinite(loss)]
    return sum(numbers) / len(numbers) if numbers else None
