"""Tasks of a watched training: each takes steps of the script until it has its result."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import snapshot
from .gradients import GradientSums

if TYPE_CHECKING:
    from .watch import Watch

# A size that has not come through after that many steps never will: workers prefetch fewer batches.
_MOST_LAG = 100


@dataclass(frozen=True)
class Step:
    """One optimizer step of the script. `clean`: nothing but training happened since the last one.

    `sizes`: samples of each batch that was fetched for it; `rows`: the first tensor's shape, where a model
    was called. `losses`: what `backward` was called on.
    """

    seconds: float
    sizes: tuple[int | None, ...]
    backwards: int
    load_seconds: float
    clean: bool
    losses: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def samples(self) -> int | None:
        return sum(size or 0 for size in self.sizes) or None

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

    def gradients(self, parts: list[Any], scale: float) -> None:
        """The gradients of the primary optimizer, before its step; for tasks that freeze the weights."""


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


class Observe(Task):
    """The first steps as they are: `steps` of them, or fewer where they are slow."""

    waits_for_device = False

    def __init__(self, steps: int, fewest: int, seconds: float) -> None:
        self._steps, self._fewest, self._seconds = steps, fewest, seconds
        self._begin = time.perf_counter()
        self.taken: list[Step] = []

    def take(self, step: Step) -> None:
        if not self.taken:
            self._begin = time.perf_counter()
        self.taken.append(step)

    @property
    def done(self) -> bool:
        count = len(self.taken)
        # Ranks have to stop at the same step.
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        late = alone and time.perf_counter() - self._begin > self._seconds
        return count >= self._steps or (late and count >= self._fewest)

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
        watch.memory.reset()

    def take(self, step: Step) -> None:
        fits = self.fits(step)
        if fits or self._observed is None:
            self._observed = self._watch.size_of(step)
        if not fits or not step.clean:
            self._lag += 1 if fits else 0
            return
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
        return enough or self.has_ended

    def result(self) -> dict[str, Any]:
        if self._pending and not self._seconds:
            self._seconds.append(sum(self._pending) / len(self._pending))
        allocated, reserved = self._watch.memory.peak()
        loads = sorted(step.load_seconds for step in self._steps)
        losses = [loss for step in self._steps if not math.isnan(loss := step.loss)]
        return {
            "observed_size": self._observed,
            "round_seconds": self._seconds,
            "steps": len(self._steps),
            "load_seconds": loads[len(loads) // 2] if loads else None,
            "peak_bytes": allocated,
            "reserved_bytes": reserved,
            "loss": sum(losses) / len(losses) if losses else None,
        }


class Noise(Sized):
    """Independent gradients at frozen weights: one of each step of the script's own loop."""

    frozen = True
    waits_for_device = False

    def __init__(self, watch: Watch, order: dict[str, Any]) -> None:
        self._count: int = order["gradients"]
        super().__init__(watch, order, self._count + 1)
        self._sums = GradientSums(order["width"], order["seed"])
        self._current: tuple[list[Any], float] | None = None

    def gradients(self, parts: list[Any], scale: float) -> None:
        self._current = [None if part is None else part.detach().clone() for part in parts], scale

    def take(self, step: Step) -> None:
        parts, self._current = self._current, None
        fits = self.fits(step)
        # The first one may hold gradients that were accumulated before the freeze.
        if fits and parts is not None and self._seen > 1:
            self._sums.add(*parts)

    @property
    def done(self) -> bool:
        enough = self._settle is None and self._sums.count >= self._count
        return enough or self.has_ended

    def result(self) -> dict[str, Any]:
        return self._sums.result()


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
                snapshot.restore(self._path, self._watch.optimizers, self._watch.roots)
            return
        self._losses.append(step.loss)
        self._seconds.append(step.seconds)

    @property
    def done(self) -> bool:
        enough = len(self._losses) >= self._count
        return enough or (self._waiting and self.has_ended)

    def result(self) -> dict[str, Any]:
        return {"losses": self._losses, "seconds": self._seconds}
