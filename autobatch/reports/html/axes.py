"""The axes of a chart: the range that holds its values, with ticks at round numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log2, log10

# The widest letter of a figure, in the larger size for telephones.
LETTER = 8.2
_MAX_TICKS = 6
# The ratio of two values above which an axis by powers is useless.
_MAX_RATIO = 1e30

Tick = tuple[float, str]
Write = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from `low` to `high` with ticks and a label; with `powers`, equal ratios are equally long."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    label: str
    powers: bool = False

    def share(self, value: float) -> float:
        """Return the place of `value`, from 0 at `low` to 1 at `high`; values outside are at the ends."""
        value = min(max(value, self.low), self.high)
        if self.powers:
            return log2(value / self.low) / log2(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def doubling_axis(values: Sequence[float], label: str, length: float) -> Axis:
    """Return an axis by powers of two, with as many ticks as its length has room for."""
    low, high = min(values) / 2**0.4, max(values) * 2**0.4
    powers = range(ceil(log2(low)), floor(log2(high)) + 1)
    widest = max((len(_short(2.0**power)) for power in powers), default=1)
    room = max(2, int(length / (widest * LETTER + 10)))
    stride = -(-len(powers) // room)
    ticks = [2.0**power for power in powers[::stride]] if stride else []
    if len(ticks) < 2:
        ticks = sorted({min(values), max(values)})
    return Axis(low, high, tuple((value, _short(value)) for value in ticks), label, powers=True)


def amount_axis(top: float, label: str, write: Write, *, base: int = 10) -> Axis:
    """Return an axis from 0 to a little above `top`; `base` 1024 puts ticks at round numbers of bytes."""
    high = top * 1.08 if top > 1e-15 else 1.0
    # Between three and six steps fit, whatever the height.
    step = _round_step(high / 6, base)
    ticks = tuple((step * number, write(step * number)) for number in range(int(high / step) + 1))
    return Axis(0.0, high, ticks, label)


def range_axis(values: Sequence[float], label: str, write: Write) -> Axis:
    """Return an axis that just holds the values: by powers if all are above 0, else linear."""
    low, high = min(values), max(values)
    powers = low > 0 and high / low < _MAX_RATIO
    if powers:
        low, high = low / 1.08, high * 1.08
        ticks = _power_ticks(low, high)
        if len(ticks) >= 3:
            return Axis(low, high, tuple((value, write(value)) for value in ticks), label, powers=True)
    else:
        margin = (high - low) * 0.05 or 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / 6, 10)
    first = ceil(low / step)
    ticks = [number * step for number in range(first, first + _MAX_TICKS + 2) if number * step <= high]
    return Axis(low, high, tuple((value, write(value)) for value in ticks), label, powers)


def _power_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, 20 ... between the two; if these are too many, powers of ten or of a thousand."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for steps, stride in (((1, 2, 5), 1), ((1,), 1), ((1,), 3), ((1,), 9)):
        ticks = [step * 10.0**decade for decade in decades[::stride] for step in steps]
        ticks = [value for value in ticks if low <= value <= high]
        if len(ticks) <= _MAX_TICKS:
            break
    return ticks


def _round_step(rough: float, base: int) -> float:
    """Return the first of 1, 2, 2.5, 5, 10 ... from `rough` on, in units of a power of `base`."""
    unit = float(base) ** floor(log2(rough) / log2(base))
    steps = (1, 2, 2.5, 5, 10) if base == 10 else (1, 2, 5, 10, 25, 50, 100, 250, 500, 1024)
    return next((step * unit for step in steps if step * unit >= rough * 0.999), steps[-1] * unit)


def _short(value: float) -> str:
    return f"{value:.0f}" if value < 1e6 else f"{value:.0e}"
