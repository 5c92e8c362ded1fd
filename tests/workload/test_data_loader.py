"""`autobatch.rebuild`: the same DataLoader at another batch size, the same samples in the same order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

import autobatch
from autobatch.records.errors import TargetError, UsageError
from autobatch.workload.data_loader import LoaderSettings, check_loader, make_loader, settings_of
from tests.strategies import recommendations
from tests.workload.datasets import Mapped

# What a DataLoader says of itself, but for its batch size and its batch sampler.
KEPT = (
    "dataset",
    "sampler",
    "drop_last",
    "collate_fn",
    "generator",
    "num_workers",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory",
    "pin_memory_device",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "in_order",
)

SAMPLERS = ("sequential", "random", "replacement", "weighted", "subset", "list")


class Numbers:
    """The numbers below `size` as samples."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class Stream(IterableDataset):
    """The same as a stream, shared out among the workers."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return iter(range(first, self.size, step))


def as_list(samples: list[int]) -> list[int]:
    return list(samples)


def at_start(worker: int) -> None:
    torch.set_num_threads(1)


def sampler_of(kind: str, dataset: Numbers, generator: torch.Generator | None) -> Any:
    size = len(dataset)
    return {
        "sequential": lambda: SequentialSampler(dataset),
        "random": lambda: RandomSampler(dataset, generator=generator),
        "replacement": lambda: RandomSampler(
            dataset, replacement=True, num_samples=2 * size, generator=generator
        ),
        "weighted": lambda: WeightedRandomSampler(
            [1.0 + index for index in range(size)], size, generator=generator
        ),
        "subset": lambda: SubsetRandomSampler(range(0, size, 2), generator=generator),
        "list": lambda: [*range(size - 1, -1, -1)],
    }[kind]()


@st.composite
def loaders(draw: st.DrawFn) -> DataLoader[int]:
    """DataLoaders without workers, of all kinds of samplers."""
    dataset = Numbers(draw(st.integers(1, 40)))
    generator = torch.Generator() if draw(st.booleans()) else None
    given: dict[str, Any] = {"shuffle": draw(st.booleans())}
    kind = draw(
        st.sampled_from(["none", "sequential", "random", "replacement", "weighted", "subset", "list"])
    )
    if kind != "none":
        given = {"sampler": sampler_of(kind, dataset, generator)}
    return DataLoader(
        dataset,
        batch_size=draw(st.integers(1, 12)),
        drop_last=draw(st.booleans()),
        collate_fn=draw(st.sampled_from([None, as_list])),
        generator=generator,
        in_order=draw(st.booleans()),
        **given,
    )


def batches(loader: DataLoader[int], seed: int) -> list[list[int]]:
    """One epoch from a known random state, the common one and the loader's own."""
    torch.manual_seed(seed)
    if loader.generator is not None:
        loader.generator.manual_seed(seed)
    return [[int(number) for number in batch] for batch in loader]


def flat(epoch: list[list[int]]) -> list[int]:
    return [number for batch in epoch for number in batch]


@settings(max_examples=150, deadline=None)
@given(loader=loaders(), size=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_the_same_samples_come_in_the_same_order(loader, size, seed):
    samples = len(loader.sampler)
    if loader.drop_last and size > samples:
        with pytest.raises(UsageError, match="would give no batch"):
            autobatch.rebuild(loader, size)
        return
    rebuilt = autobatch.rebuild(loader, size)
    assert type(rebuilt) is DataLoader
    assert rebuilt.batch_size == size
    for name in KEPT:
        assert getattr(rebuilt, name) is getattr(loader, name) or getattr(rebuilt, name) == getattr(
            loader, name
        ), name
    before, after = batches(loader, seed), batches(rebuilt, seed)
    shorter, longer = sorted([flat(before), flat(after)], key=len)
    assert longer[: len(shorter)] == shorter
    assert all(len(batch) == size for batch in after[:-1])
    if loader.drop_last:
        assert all(len(batch) == size for batch in after)
        # Fewer than a batch are left out at either size.
        assert len(longer) - len(shorter) < max(size, loader.batch_size)
    else:
        assert longer == shorter


def test_what_concerns_workers_and_memory_is_kept():
    loader = DataLoader(
        Numbers(60),
        batch_size=4,
        shuffle=True,
        collate_fn=as_list,
        num_workers=2,
        prefetch_factor=3,
        persistent_workers=True,
        timeout=60,
        worker_init_fn=at_start,
        multiprocessing_context="fork",
        generator=torch.Generator(),
        in_order=False,
        drop_last=True,
    )
    rebuilt = autobatch.rebuild(loader, 10)
    assert {name: getattr(rebuilt, name) for name in KEPT} == {name: getattr(loader, name) for name in KEPT}
    assert rebuilt._iterator is None
    assert sorted(flat(list(rebuilt))) == list(range(60))


def test_pinned_memory_is_kept():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this setting has no effect any more
        loader = DataLoader(Numbers(4), pin_memory=True, pin_memory_device="cuda")
        rebuilt = autobatch.rebuild(loader, 2)
    assert (rebuilt.pin_memory, rebuilt.pin_memory_device) == (True, "cuda")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_read_as_before(workers: int):
    stream = Stream(30)
    loader = DataLoader(stream, batch_size=2, num_workers=workers, drop_last=True)
    rebuilt = autobatch.rebuild(loader, 5)
    assert rebuilt.dataset is stream
    assert rebuilt.batch_size == 5
    epoch = batches(rebuilt, 0)
    assert {len(batch) for batch in epoch} == {5}
    assert sorted(flat(epoch)) == list(range(30))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recommendations())
def test_a_recommendation_gives_its_batch_size(found):
    assert autobatch.rebuild(DataLoader(Numbers(5)), found).batch_size == found.batch_size


def test_the_original_stays_as_it_was_and_draws_nothing():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Numbers(20), batch_size=3, shuffle=True, generator=generator)
    own, common = generator.get_state(), torch.get_rng_state()
    autobatch.rebuild(loader, 7)
    assert loader.batch_size == 3
    assert torch.equal(generator.get_state(), own)
    assert torch.equal(torch.get_rng_state(), common)


class OwnConstructor(DataLoader):
    """As PyTorch Geometric's: a constructor that makes the collate function, and no more."""

    def __init__(self, dataset: Any, batch_size: int, suffix: str) -> None:
        super().__init__(
            dataset, batch_size, collate_fn=lambda samples: [f"{one}{suffix}" for one in samples]
        )


class OwnIteration(DataLoader):
    def __iter__(self) -> Any:
        return map(str, super().__iter__())


def test_a_subclass_with_a_constructor_of_its_own_becomes_a_plain_loader_that_gives_the_same():
    rebuilt = autobatch.rebuild(OwnConstructor(Numbers(4), 1, "!"), 2)
    assert type(rebuilt) is DataLoader
    assert list(rebuilt) == [["0!", "1!"], ["2!", "3!"]]


@pytest.mark.parametrize(
    ("loader", "kind", "code", "words"),
    [
        (
            lambda: DataLoader(
                Numbers(8), batch_sampler=BatchSampler(SequentialSampler(Numbers(8)), 2, False)
            ),
            TargetError,
            "batch_sampler",
            "BatchSampler",
        ),
        (lambda: DataLoader(Numbers(8), batch_size=None), TargetError, "unbatched_loader", "batch_size=None"),
        (lambda: DataLoader(Stream(8), batch_size=None), TargetError, "unbatched_loader", "batch_size=None"),
        (lambda: OwnIteration(Numbers(8)), TargetError, "own_loader", "`__iter__`"),
        (lambda: Numbers(8), UsageError, "not_a_loader", "Numbers"),
    ],
)
def test_what_can_not_be_made_again_is_an_error(loader, kind, code, words):
    with pytest.raises(kind) as raised:
        autobatch.rebuild(loader(), 4)
    assert raised.value.code == code
    assert words in str(raised.value)
    assert raised.value.hint


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "8", None])
def test_what_is_no_batch_size_is_an_error(size):
    with pytest.raises(UsageError, match="is not a batch size") as raised:
        autobatch.rebuild(DataLoader(Numbers(8)), size)
    assert raised.value.code == "bad_batch_size"


def test_the_settings_of_a_loader() -> None:
    assert settings_of(Mapped()) is None
    assert settings_of(DataLoader(Mapped())) == LoaderSettings()
    loader = DataLoader(
        Mapped(),
        num_workers=2,
        prefetch_factor=5,
        persistent_workers=True,
        pin_memory=True,
        timeout=7,
        multiprocessing_context="forkserver",
        worker_init_fn=print,
        drop_last=True,
    )
    assert settings_of(loader) == LoaderSettings(
        workers=2,
        prefetch_factor=5,
        persistent_workers=True,
        pin_memory=True,
        timeout_seconds=7,
        start_method="forkserver",
        worker_init_fn=print,
        drop_last=True,
    )
    given = settings_of(loader) or LoaderSettings()
    made = make_loader(Mapped(), default_collate, given, 4, 2, seed=0)
    assert (made.batch_size, made.num_workers, made.prefetch_factor, made.timeout) == (4, 2, 5, 7)
    assert made.persistent_workers
    context: Any = made.multiprocessing_context
    assert context.get_start_method() == "forkserver"
    # Without workers a DataLoader refuses all that is about them.
    assert make_loader(Mapped(), default_collate, given, 4, 0, seed=0).timeout == 0


def test_a_loader_whose_data_set_makes_the_batches() -> None:
    with pytest.raises(TargetError) as caught:
        check_loader(DataLoader(Mapped(4), batch_size=None))
    assert caught.value.code == "unbatched_loader"
