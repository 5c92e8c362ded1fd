"""Which size fits on which device, by as many traces as the step needs.

A trace at two small sizes says what any other size takes, where a step is the same at all of them. That is
looked at: the step is traced once more at the size that was found, and where it is another one there, two
traces near that size take the place of the small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autobatch.engines.messages import Storages
from autobatch.memory.storage_log import Lifetime, events_at, peak_bytes
from autobatch.planning.capacity import StepMemory
from autobatch.records.plan import Asked, Fit, PlannedDevice

# Pairs whose traces are asked for first, until both of one have the same structure; real tensors take memory.
SMALL = ((4, 8), (16, 32))
SMALL_REAL = ((2, 4), (3, 4))
# What of a predicted size is counted on: by published runs on an RTX 3090 that is a size that trains for 177
# of 179 models (benchmarks/README.md). What a trace can't see in full has a share of its own: a cuDNN reserve
# made an LSTM take 1.53 times what was predicted, copies around GroupNorm 1.23 times; of the others no figure
# is known.
_SHARE = 0.92
_SHARES = {"rnn": 0.65, "group_norm": 0.8, "compiled": 0.8, "foreign": 0.8, "real": 0.8, "unconfirmed": 0.8}
# A heap may lose up to half of its memory between blocks.
_HEAP_SHARE = 0.5
# A pair of traces near a size, and how far around that it is believed.
_NEAR, _REACH = 0.75, (0.6, 1.2)
_MOST_ROUNDS = 10
_SAME = 0.001


class Planner:
    """Sizes and what they take, for one device or several with an allocator of the same rules.

    `trace` traces the step at two sizes. `real`: on real tensors, so at small sizes only. `heap`: the memory
    is a process's, which no caching allocator keeps. `traits` (see wire.Storages) tells at any time what was
    met; beside those of a trace: `real`, `changes` where the step is another one at another size,
    `unconfirmed` where that could not be looked at.
    """

    def __init__(self, trace: Callable[[int, int], Storages], *, real: bool, heap: bool) -> None:
        self._trace = trace
        self._real = real
        self._heap = heap
        self._small: tuple[Lifetime, ...] = ()
        # The size of the second small trace, and the largest at which a trace had the peak that they say.
        self._second = self._agreed = 0
        self.traits: set[str] = {"real"} if real else set()
        self.guessed = 0

    def open(self) -> str:
        """Traces the step at small sizes; why that is impossible, or nothing."""
        detail = ""
        for first, second in SMALL_REAL if self._real else SMALL:
            found = self._trace(first, second)
            if found.lifetimes:
                self._small = found.lifetimes
                self._second = self._agreed = second
                self.traits |= set(found.traits)
                self.guessed = found.guessed
                return ""
            detail = detail or found.detail
        return detail

    def fit(self, device: PlannedDevice) -> Fit:
        """The largest size on a device."""
        step, size = self._step_and_size(device.room_bytes)
        # What doesn't fit is shown as it would be where it did.
        room_bytes = None if size < 1 or self._heap else device.room_bytes
        return Fit(
            device=device,
            batch_size=size,
            low=size if self._heap else int(self.share * size),
            high=max(size, step.ceiling(device.room_bytes)),
            usage=step.usage(max(1, size), room_bytes, device.workspace_bytes),
        )

    def ask(self, batch_size: int, fits: Sequence[Fit]) -> Asked:
        """What a size takes, and the smallest of the devices that takes it without doubt."""
        step = StepMemory(self._small)
        if not self._agrees(step, batch_size):
            step = self._near(batch_size) or step
        takers = [fit.device for fit in fits if fit.low >= batch_size]
        smallest = min(takers, key=lambda device: device.total_bytes, default=None)
        return Asked(usage=step.usage(batch_size), smallest=None if smallest is None else smallest.name)

    @property
    def share(self) -> float:
        """What of a predicted size is counted on, by what was met so far."""
        return min([_SHARE, *(_SHARES[one] for one in self.traits if one in _SHARES)])

    def _step_and_size(self, room_bytes: int) -> tuple[StepMemory, int]:
        """The largest size, and the step as it is near that."""
        step = StepMemory(self._small)
        size = self._largest(step, room_bytes)
        for _ in range(_MOST_ROUNDS):
            if self._agrees(step, size):
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
        return step.ceiling(int(_HEAP_SHARE * room_bytes)) if self._heap else step.largest(room_bytes)

    def _agrees(self, step: StepMemory, size: int) -> bool:
        """True where a trace at this size has the peak that was expected, and where none can be made.

        A step that is the same at a small and at a large size is taken to be the same between them.
        """
        if self._real or size <= self._agreed:
            return True
        found = self._trace(self._second, size)
        if not found.lifetimes:
            return False
        traced = peak_bytes(events_at(found.lifetimes, size))
        if abs(traced - step.live_bytes(size)) > _SAME * traced:
            return False
        self._agreed = size
        return True

    def _near(self, size: int) -> StepMemory | None:
        """The step by two traces near a size; None where it has two structures there, or no trace."""
        found = self._trace(max(1, int(_NEAR * size)), size)
        self.traits.add("changes" if found.lifetimes else "unconfirmed")
        return StepMemory(found.lifetimes) if found.lifetimes else None
