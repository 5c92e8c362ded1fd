"""Samples of tensors and NumPy arrays with one row a sample."""

from __future__ import annotations

import numpy as np
import pytest
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


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_float64_arrays_take_the_dtype_of_the_model(dtype: torch.dtype, single: bool) -> None:
    fine = 1 + 2.0**-40
    array = np.full((4, 2), fine)
    samples = open_samples(array if single else (array,))
    samples.use_dtype(dtype)
    batch = samples.batch(2, 0)
    inputs = batch if single else batch[0]
    assert inputs.dtype == dtype
    # Twice rounded, the digits of double precision would be lost.
    assert (float(inputs[0, 0]) == fine) == (dtype == torch.float64)
    assert (samples.notes == ()) == (dtype == torch.float64)
    assert samples.scanned is None


def test_tensors_keep_their_dtype() -> None:
    samples = open_samples((torch.zeros(4, 2, dtype=torch.float64), np.zeros(4, dtype=np.int64)))
    samples.use_dtype(torch.float32)
    inputs, targets = samples.batch(2, 0)
    assert (inputs.dtype, targets.dtype) == (torch.float64, torch.int64)
