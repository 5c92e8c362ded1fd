"""Samples of map-style data sets: drawn by a seed, scanned for their sizes, the largest of them found."""

from __future__ import annotations

import random
import time

import numpy as np
import torch

from autobatch.records.workload import SampleSizes, SequenceLengths
from autobatch.workload.dataset import open_samples
from autobatch.workload.mapped_samples import MappedSamples
from tests.workload.datasets import INPUTS, TARGETS, Mapped, Ragged, lengths


def test_the_same_seed_draws_the_same_batch() -> None:
    samples = open_samples((INPUTS, TARGETS))
    first, again, other = (samples.batch(5, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_the_largest_samples_make_the_worst_batch() -> None:
    samples = open_samples(Ragged(), lengths)
    samples.scan(seed=0)
    assert samples.vary
    assert samples.sizes == SampleSizes(scanned=20, smallest=1, median=10.5, largest=20)
    assert samples.largest(3, seed=0) == [20, 19, 18]
    assert samples.repeated(3) == [20, 20, 20]
    assert sorted(samples.largest(20, seed=0)) == list(range(1, 21))


def test_a_scan_of_samples_that_vary_finds_the_one_that_is_larger_than_all_others() -> None:
    samples = open_samples(Ragged(5000), lengths)
    samples.scan(seed=3)
    again = open_samples(Ragged(5000), lengths)
    again.scan(seed=3)
    assert samples.sizes is not None
    assert (samples.sizes.scanned, samples.sizes.largest) == (5000, 5000)
    assert samples.largest(2, seed=0) == [5000, 4999]
    assert samples.scanned == again.scanned


def test_a_scan_of_samples_that_do_not_vary_ends_early() -> None:
    samples = open_samples(Mapped(5000))
    samples.scan(seed=3)
    assert samples.sizes is not None
    assert (samples.sizes.scanned, samples.vary) == (2048, False)


def test_a_scan_takes_no_list_of_all_samples_of_a_huge_data_set() -> None:
    samples = open_samples(Mapped(10**12))
    samples.scan(seed=3)
    assert samples.sizes is not None
    assert samples.sizes.scanned == 2048


def test_a_scan_ends_when_its_time_is_over() -> None:
    class Slow(Mapped):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            time.sleep(2.6)
            return super().__getitem__(index)

    samples = open_samples(Slow())
    samples.scan(seed=0)
    assert samples.sizes is not None
    assert 1 <= samples.sizes.scanned <= 2


def test_of_a_part_of_a_data_set_the_largest_stand_for_what_was_not_read() -> None:
    samples = open_samples(Ragged(20), lengths)
    assert isinstance(samples, MappedSamples)
    samples.scan(seed=0, most=5)
    assert samples.sizes is not None
    assert samples.sizes.scanned == 5
    assert samples.largest(4, seed=0) == [samples.sizes.largest] * 4
    assert len(set(samples.largest(8, seed=0))) == 2


def test_a_scan_changes_no_random_numbers() -> None:
    samples = open_samples(Ragged(), lengths)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    samples.scan(seed=0)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_samples_of_one_size_are_drawn_as_ever() -> None:
    samples = open_samples(Mapped())
    samples.scan(seed=0)
    assert not samples.vary
    assert samples.scanned is not None
    assert samples.scanned.largest == ()
    assert samples.largest(5, seed=2)[1].tolist() == samples.batch(5, seed=2)[1].tolist()
    assert samples.repeated(4)[1].tolist() == [0, 0, 0, 0]


def test_a_sample_that_can_not_be_read_is_left_out_of_a_scan() -> None:
    samples = open_samples(Ragged(broken=19), lengths)
    samples.scan(seed=0)
    assert samples.largest(2, seed=0) == [19, 18]
    broken = open_samples(Ragged(1, broken=0), lengths)
    broken.scan(seed=0)
    assert (broken.scanned, broken.sizes, broken.vary) == (None, None, False)


def test_dict_samples_with_tokens() -> None:
    rows = [{"input_ids": list(range(length)), "label": 1} for length in (3, 9, 6)]
    samples = open_samples(rows, lambda batch: [len(row["input_ids"]) for row in batch])
    samples.scan(seed=0)
    assert samples.sizes is not None
    assert samples.sizes.tokens == SequenceLengths(mean=6.0, median=6.0, longest=9)
    assert samples.largest(2, seed=0) == [9, 6]
