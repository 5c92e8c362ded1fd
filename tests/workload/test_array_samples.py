"""Samples of tensors and NumPy arrays with one row a sample."""

from __future__ import annotations

import numpy as np
import torch

from autobatch.workload.data_loader import LoaderSettings
from autobatch.workload.dataset import open_samples
from tests.workload.datasets import INPUTS, TARGETS


def test_float64_arrays_become_float32_and_that_is_said() -> None:
    samples = open_samples((np.zeros((4, 2)), np.zeros(4, dtype=np.int64)))
    assert samples.batch(2, 0)[0].dtype == torch.float32
    assert samples.notes == ("NumPy float64 arrays taken as float32",)
    assert open_samples((np.zeros((4, 2), dtype=np.float32),)).notes == ()


def test_rows_taken_at_once_make_the_same_batch() -> None:
    samples, expected = open_samples((INPUTS, TARGETS)), open_samples((INPUTS, TARGETS))
    samples.bulk_indexing = True
    for ours, theirs in zip(samples.batch(5, seed=3), expected.batch(5, seed=3), strict=True):
        assert torch.equal(ours, theirs)
    assert samples.loader(LoaderSettings(), 6, workers=0, seed=1) is None
    assert expected.loader(LoaderSettings(), 6, workers=0, seed=1) is not None


def test_a_collate_function_sees_single_rows_in_any_case() -> None:
    samples = open_samples((INPUTS, TARGETS), len)
    samples.bulk_indexing = True
    assert samples.batch(5, seed=3) == 5
