"""The largest size that fits on each device, by as many traces as the step needs.

Traces at two small sizes give the memory at any size, if the step is the same at all sizes. The planner
checks this by another trace at the predicted size. If the step differs there, two traces near that size
replace the small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autobatch.engines.trace_messages import Storages
from autobatch.memory.storage_log import Lifetime, events_at, peak_bytes
from autobatch.planning.capacity import LARGEST, StepMemory
from autobatch.records.plan import Asked, Fit, PlannedDevice

# Pairs of sizes to trace first, until both traces of a pair have the same structure. Real tensors take
# memory, so their sizes are smaller.
SMALL = ((4, 8), (16, 32))
SMALL_REAL = ((2, 4), (3, 4))
# The low end of the range, as a share of the predicted size. In published runs on an RTX 3090 this size
# trained for 177 of 179 models (benchmarks/README.md). Traits that a trace sees in part have lower shares:
# with a cuDNN reserve an LSTM took 1.53x the prediction, with copies around GroupNorm a model took 1.23x. The
# shares of the other traits are assumptions.
_SHARE = 0.92
_SHARES = {"rnn": 0.65, "group_norm": 0.8, "compiled": 0.8, "foreign": 0.8, "real": 0.8, "unconfirmed": 0.8}
# A heap may lose up to half of its memory between its blocks.
_HEAP_SHARE = 0.5
# The first size of a pair of traces near a size, and the range around that size in which the pair holds.
_NEAR, _REACH = 0.75, (0.6, 1.2)
_MOST_ROUNDS = 10
_SAME = 0.001


class Planner:
    """Sizes and their memory, for devices whose allocators follow the same rules.

    `trace` traces the step at two sizes. No size is larger than `most_samples`, whatever fits. `real`: on
    real tensors, so at small sizes only. `heap`: the memory is that of a process, without a caching
    allocator. `traits` collects the traits of all traces so far (see Storages), and adds: `real`;
    `changes` where the step changes with the size; `unconfirmed` where no trace could check that.
    """

    def __init__(
        self,
        trace: Callable[[int, int], Storages],
        *,
        real: bool,
        heap: bool,
        most_samples: int = LARGEST,
    ) -> None:
        self._trace = trace
        self._most_samples = most_samples
        self._real = real
        self._heap = heap
        self._small: tuple[Lifetime, ...] = ()
        # The size of the second small trace, and the largest size at which a trace confirmed the prediction.
        self._second = self._confirmed = 0
        self.traits: set[str] = {"real"} if real else set()
        self.guessed = 0

    def open(self) -> str:
        """Trace the step at small sizes; return the reason why that failed, else an empty string."""
        detail = ""
        for first, second in SMALL_REAL if self._real else SMALL:
            traced = self._trace(first, second)
            if traced.lifetimes:
                self._small = traced.lifetimes
                self._second = self._confirmed = second
                self.traits |= set(traced.traits)
                self.guessed = traced.guessed
                return ""
            detail = detail or traced.detail
        return detail

    def fit(self, device: PlannedDevice) -> Fit:
        """The largest size that fits on a device."""
        step, size = self._step_and_size(device.room_bytes)
        # A step that doesn't fit is shown with unlimited room.
        room_bytes = None if size < 1 or self._heap else device.room_bytes
        return Fit(
            device=device,
            batch_size=size,
            low=size if self._heap else self._low(step, size, device.room_bytes),
            high=max(size, min(step.ceiling(device.room_bytes), self._most_samples)),
            usage=step.usage(max(1, size), room_bytes, device.workspace_bytes),
        )

    def ask(self, batch_size: int, fits: Sequence[Fit]) -> Asked:
        """The memory of a size, and the smallest device whose range lies above the size."""
        step = StepMemory(self._small)
        if not self._confirms(step, batch_size):
            step = self._near(batch_size) or step
        takers = [fit.device for fit in fits if fit.low >= batch_size]
        smallest = min(takers, key=lambda device: device.total_bytes, default=None)
        return Asked(usage=step.usage(batch_size), smallest=None if smallest is None else smallest.name)

    @property
    def share(self) -> float:
        """The low end of the range, as a share of the predicted size, by the traits so far."""
        return min([_SHARE, *(_SHARES[trait] for trait in self.traits if trait in _SHARES)])

    def _low(self, step: StepMemory, size: int, room_bytes: int) -> int:
        """The low end of the range. Where the samples limit the size, the margin may lie above it."""
        fitting = step.largest(room_bytes) if size == self._most_samples else size
        return min(size, int(self.share * fitting))

    def _step_and_size(self, room_bytes: int) -> tuple[StepMemory, int]:
        """The step near its largest size, and that size."""
        step = StepMemory(self._small)
        size = self._largest(step, room_bytes)
        for _ in range(_MOST_ROUNDS):
            if self._confirms(step, size):
                return step, size
            near = self._near(size)
            if near is None:
                return step, size
            step, before, size = near, size, self._largest(near, room_bytes)
            if _REACH[0] * before <= size <= _REACH[1] * before:
                return step, size
        self.traits.add("unconfirmed")
        return step, size

    def _largest(self, step: StepMemory, room_bytes: int) -> int:
        size = step.ceiling(int(_HEAP_SHARE * room_bytes)) if self._heap else step.largest(room_bytes)
        return min(size, self._most_samples)

    def _confirms(self, step: StepMemory, size: int) -> bool:
        """True where a trace at this size has the predicted peak, and where real tensors forbid a trace.

        A step that is the same at a small and at a large size is assumed to be the same between them.
        """
        if self._real or size <= self._confirmed:
            return True
        traced = self._trace(self._second, size)
        if not traced.lifetimes:
            return False
        traced_bytes = peak_bytes(events_at(traced.lifetimes, size))
        if abs(traced_bytes - step.live_bytes(size)) > _SAME * traced_bytes:
            return False
        self._confirmed = size
        return True

    def _near(self, size: int) -> StepMemory | None:
        """The step from two traces near a size; None where these differ in structure, or fail."""
        traced = self._trace(max(1, int(_NEAR * size)), size)
        self.traits.add("changes" if traced.lifetimes else "unconfirmed")
        return StepMemory(traced.lifetimes) if traced.lifetimes else None
