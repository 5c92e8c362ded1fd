"""Sizes from traces: linear where a step is the same at all sizes, traced again where it is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autobatch.engines.trace_messages import Storages
from autobatch.memory.caching_allocator import MIB
from autobatch.memory.storage_log import Birth, Death, Event, Kind, align
from autobatch.planning.capacity import LARGEST, StepMemory
from autobatch.planning.planner import Planner
from autobatch.records.plan import PlannedDevice

Log = Callable[[int], tuple[Event, ...]]
GIB = 1 << 30


def device(gib: float, kind: str = "cuda") -> PlannedDevice:
    return PlannedDevice(
        name=f"{gib:g}GiB", total_bytes=int(gib * GIB), context_bytes=0, workspace_bytes=0, kind=kind
    )


def straight(size: int) -> tuple[Event, ...]:
    """64 MiB of weights; 3 MiB a sample are alive, then 1 MiB of them and twice the weights."""
    return (
        Birth(0, 64 * MIB, Kind.PARAMETER),
        Birth(1, MIB * size),
        Birth(2, 2 * MIB * size),
        Death(2),
        Birth(3, 64 * MIB, Kind.GRADIENT),
        Birth(4, 64 * MIB, Kind.OPTIMIZER),
    )


def switching(size: int) -> tuple[Event, ...]:
    """From 100 samples on, 1 MiB more a sample."""
    return (*straight(size), Birth(5, MIB * size)) if size >= 100 else straight(size)


def square(size: int) -> tuple[Event, ...]:
    """A kilobyte for each pair of samples, as a contrastive loss takes."""
    return Birth(0, MIB), Birth(1, 1024 * size * size)


class Tracing:
    """Trace a log, and record the requested sizes; `until` is the largest size that it can trace."""

    def __init__(self, log: Log, until: int = LARGEST, traits: tuple[str, ...] = ()) -> None:
        self.log, self.until, self.traits = log, until, traits
        self.sizes: set[int] = set()

    def __call__(self, first: int, second: int) -> Storages:
        if second > self.until:
            return Storages(lifetimes=(), detail=f"{second} is too large")
        self.sizes |= {first, second}
        lifetimes = align(self.log(first), first, self.log(second), second)
        return Storages(lifetimes=lifetimes or (), detail="" if lifetimes else "unlike", traits=self.traits)


def planner(
    log: Log, *, heap: bool = False, real: bool = False, most_samples: int = LARGEST, **settings: object
) -> Planner:
    tracing = Tracing(log, **settings)  # type: ignore[arg-type]
    opened = Planner(tracing, real=real, heap=heap, most_samples=most_samples)
    assert opened.open() == ""
    return opened


def test_a_linear_step_is_traced_at_two_sizes_and_once_at_the_answer() -> None:
    """Lightning-AI/litgpt 921; huggingface/accelerate 2512."""
    tracing = Tracing(straight)
    opened = Planner(tracing, real=False, heap=False)
    assert opened.open() == ""
    fit = opened.fit(device(1))
    # 64 + 3 B MiB fill a GiB at 320.
    assert (fit.batch_size, fit.low, fit.high) == (320, 294, 320)
    assert tracing.sizes == {4, 8, 320}
    assert not opened.traits
    assert fit.usage.allocated_bytes == fit.usage.reserved_bytes == GIB
    assert fit.usage.parts.parameters_bytes == 64 * MIB
    assert fit.usage.parts.activations_bytes == 960 * MIB
    assert fit.usage.parts.gradients_bytes == 0


def test_a_large_confirmed_size_confirms_all_smaller_sizes() -> None:
    tracing = Tracing(straight)
    opened = Planner(tracing, real=False, heap=False)
    opened.open()
    for gib in (4, 2, 1):
        opened.fit(device(gib))
    assert tracing.sizes == {4, 8, 1344}


def test_where_nothing_fits_size_1_is_shown() -> None:
    fit = planner(straight).fit(device(0.1))
    assert (fit.batch_size, fit.low, fit.high) == (0, 0, 0)
    assert fit.usage.batch_size == 1
    assert fit.usage.reserved_bytes > device(0.1).total_bytes


def test_a_step_that_changes_with_its_size_is_traced_again_near_the_answer() -> None:
    """192 + 2 B MiB fill a GiB at 416, where the small sizes would say 320."""
    opened = planner(switching)
    assert opened.fit(device(4)).batch_size == StepMemory(
        align(switching(900), 900, switching(1000), 1000) or ()
    ).largest(4 * GIB)
    assert "changes" in opened.traits


def test_a_step_that_grows_with_the_square_is_no_straight_line() -> None:
    """1 MiB and 1 KiB B^2 fill 4 GiB at 2047; a line through 4 and 8 would say 350,000."""
    opened = planner(square)
    fit = opened.fit(device(4))
    assert fit.batch_size == pytest.approx(2047, rel=0.01)
    assert opened.traits == {"changes"}


def test_an_untraced_size_is_unconfirmed_and_has_a_wider_range() -> None:
    opened = planner(straight, until=100)
    fit = opened.fit(device(1))
    assert opened.traits == {"unconfirmed"}
    assert (fit.batch_size, fit.low) == (320, 256)


@pytest.mark.parametrize(("trait", "low"), [("rnn", 208), ("group_norm", 256), ("foreign", 256)])
def test_traits_that_a_trace_sees_in_part_widen_the_range(trait: str, low: int) -> None:
    opened = planner(straight, traits=(trait,))
    assert (opened.fit(device(1)).low, opened.fit(device(1)).high) == (low, 320)


def test_real_tensors_are_never_traced_at_large_sizes() -> None:
    tracing = Tracing(straight)
    opened = Planner(tracing, real=True, heap=False)
    opened.open()
    opened.fit(device(1))
    assert max(tracing.sizes) == 4
    assert opened.traits == {"real"}


def test_on_a_heap_half_of_the_memory_is_used() -> None:
    fit = planner(straight, heap=True).fit(device(1, "cpu"))
    # 512 = 64 + 3 B, and 1024 = 64 + 3 B.
    assert (fit.batch_size, fit.low, fit.high) == (149, 149, 320)


def test_a_step_without_a_structure_gives_the_reason() -> None:
    def never_alike(size: int) -> tuple[Event, ...]:
        return tuple(Birth(number, 512) for number in range(size))

    assert Planner(Tracing(never_alike), real=False, heap=False).open() == "unlike"


def test_the_smallest_device_has_a_range_above_the_size() -> None:
    opened = planner(straight)
    fits = [opened.fit(device(gib)) for gib in (4, 1, 2)]
    assert opened.ask(294, fits).smallest == "1GiB"
    assert opened.ask(295, fits).smallest == "2GiB"
    assert opened.ask(5000, fits).smallest is None
    assert opened.ask(10, fits).usage.allocated_bytes == (3 * 64 + 10) * MIB


def test_a_size_stops_at_the_samples_of_the_data_set() -> None:
    """320 fit, as above; the low end is 294, or all samples where there are fewer."""
    few, some, many = (planner(straight, most_samples=count) for count in (100, 300, 400))
    fits = [each.fit(device(1)) for each in (few, some, many)]
    assert [(fit.low, fit.batch_size, fit.high) for fit in fits] == [
        (100, 100, 100),
        (294, 300, 300),
        (294, 320, 320),
    ]
    assert planner(straight, most_samples=100, heap=True).fit(device(1)).batch_size == 100
