"""How large samples are, and which of them decide: pure, on nested samples of any kind."""

from __future__ import annotations

import random
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autobatch.workload.sample_size import (
    Extent,
    Scan,
    extent_of,
    is_opaque,
    is_plain,
    largest_first,
    scan_of,
    sum_up,
    worst,
)

EXTENTS = st.lists(st.builds(Extent, st.integers(0, 10**6), st.none() | st.integers(0, 10**4)), min_size=1)


class Picture:
    """What a PIL image shows of itself."""

    size = (30, 20)


@dataclass
class Molecule:
    positions: torch.Tensor
    name: str


class Slotted:
    __slots__ = ("empty", "values")

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values


class Nested:
    """A store in an attribute, as graphs of PyTorch Geometric have it."""

    def __init__(self, values: torch.Tensor) -> None:
        self._store = SimpleNamespace(_mapping={"x": values})

    def __call__(self, *names: str) -> Any:
        """Their graphs can be called."""


class Ring:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.next = self


Named = namedtuple("Named", "image boxes")


@pytest.mark.parametrize(
    ("sample", "hidden", "plain"),
    [
        (torch.zeros(3), False, False),
        ("a text", False, False),
        ([1, 2], False, True),
        (Molecule(torch.zeros(3), ""), False, False),
        (Path("a.png"), True, False),
        ((Path("a.png"), 3), True, False),
        ((3, 4), True, True),
        (None, True, True),
        (Ring(), True, False),
        (int, True, False),
        (len, True, False),
        (torch, True, False),
    ],
)
def test_samples_that_hide_their_sizes(sample: Any, hidden: bool, plain: bool) -> None:
    assert (is_opaque(sample), is_plain(sample)) == (hidden, plain)


@pytest.mark.parametrize(
    ("sample", "inputs", "elements", "tokens"),
    [
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), 192, None),
        ((torch.zeros(7, dtype=torch.int64), 1), torch.zeros(7, dtype=torch.int64), 8, 7),
        ((np.zeros((2, 5)), np.int64(3)), np.zeros((2, 5)), 11, None),
        ((np.zeros(6, dtype=np.uint8), 0), np.zeros(6, dtype=np.uint8), 7, 6),
        ([5, 6, 7], (5, 6), 3, 3),
        ((5, 6), 5, 2, None),
        ({"input_ids": [1, 2, 3], "label": 0}, {"input_ids": [1, 2, 3]}, 4, 3),
        ({"kinds": [0, 0], "input_ids": [1, 2, 3]}, {"kinds": [0, 0], "input_ids": [1, 2, 3]}, 5, 3),
        ({"words": [4, 4], "y": 1.0}, {"words": [4, 4]}, 3, 2),
        ({"image": torch.zeros(4), "boxes": [[0.0] * 4] * 3}, {"image": torch.zeros(4)}, 16, None),
        (("a text", 1), "a text", 7, None),
        ((Picture(), 1), Picture(), 601, None),
        (torch.zeros(()), torch.zeros(()), 1, None),
        ([], [], 0, None),
        (None, None, 1, None),
        (torch.zeros(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool), 4, None),
        (Molecule(torch.zeros(5, 3), "C6H6"), Molecule(torch.zeros(5, 3), "C6H6"), 15, None),
        (Slotted(torch.zeros(7)), Slotted(torch.zeros(7)), 7, None),
        (Nested(torch.zeros(6)), Nested(torch.zeros(6)), 6, None),
        (Named(torch.zeros(4), [1.0, 2.0]), torch.zeros(4), 6, None),
        ((Nested(torch.zeros(6)), 1), Nested(torch.zeros(6)), 7, None),
        (Path("a/long/name.png"), Path("a/long/name.png"), 1, None),
        (Ring(), Ring(), 1, None),
        (np.array([np.zeros((5, 2)), None, "ab"], dtype=object), None, 13, None),
    ],
)
def test_the_extent_of_a_sample(sample: Any, inputs: Any, elements: int, tokens: int | None) -> None:
    """pytorch_geometric 583, 1113; polygnn 26: one graph in a hundred is large."""
    assert extent_of(sample, inputs) == Extent(elements, tokens)


@given(EXTENTS)
def test_sizes_hold_what_they_were_made_of(extents: list[Extent]) -> None:
    sizes = sum_up(extents)
    elements = sorted(one.elements for one in extents)
    assert (sizes.scanned, sizes.smallest, sizes.largest) == (len(extents), elements[0], elements[-1])
    assert sizes.smallest <= sizes.median <= sizes.largest
    assert sizes.vary == (len(set(elements)) > 1)
    every = all(one.tokens is not None for one in extents)
    assert (sizes.tokens is not None) == every
    if sizes.tokens is not None:
        assert sizes.tokens.longest == max(one.tokens or 0 for one in extents)


@given(EXTENTS)
def test_the_largest_come_first_and_each_once(extents: list[Extent]) -> None:
    order = largest_first(extents)
    assert sorted(order) == list(range(len(extents)))
    ranked = [extents[place].elements for place in order]
    assert ranked == sorted(ranked, reverse=True)


@given(EXTENTS, st.integers(1, 300), st.sampled_from([1, 10]))
def test_no_batch_of_what_was_scanned_is_larger_than_the_worst(
    extents: list[Extent], size: int, times: int
) -> None:
    dataset_size = times * len(extents)
    places = [10 * place for place in range(len(extents))]
    scan = scan_of(places, extents)
    if not scan.sizes.vary:
        assert scan == Scan(sum_up(extents), ())
        return
    elements = dict(zip(places, (one.elements for one in extents), strict=True))
    batch = [elements[place] for place in worst(scan.largest, size, dataset_size)]
    assert len(batch) == size
    known = sorted(elements.values(), reverse=True)
    assert all(one >= other for one, other in zip(batch, known, strict=False))
    assert batch == sorted(batch, reverse=True)
    if times == 1 and size <= len(extents):
        assert batch == known[:size]


def test_a_part_of_a_data_set_tells_how_large_its_largest_batch_is() -> None:
    lengths = list(range(20_000))
    random.Random(0).shuffle(lengths)
    scan = scan_of(range(2000), [Extent(length, None) for length in lengths[:2000]])
    found = fmean(lengths[place] for place in worst(scan.largest, 1000, len(lengths)))
    assert found == pytest.approx(fmean(range(19_000, 20_000)), rel=0.01)
    assert worst(range(700), 100, 10_000) == [i * 7 // 100 for i in range(100)]
