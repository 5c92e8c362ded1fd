"""Parameters and bytes of models, lazy and tied ones included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autobatch.workload.model_size import count_parameters, floating_dtype, is_lazy, model_bytes


def test_shared_storage_is_counted_once() -> None:
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    assert model_bytes(tied) == 128
    tied[1].weight = tied[0].weight
    assert model_bytes(tied) == 64


def test_buffers_are_bytes_but_no_parameters() -> None:
    norm = nn.BatchNorm1d(4, affine=False)
    assert count_parameters(norm) == 0
    # Two buffers of four floats each, and the count of batches.
    assert model_bytes(norm) == 2 * 16 + 8


def test_a_lazy_module_has_no_size_before_its_first_batch() -> None:
    lazy = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    assert any(map(is_lazy, lazy.parameters()))
    assert count_parameters(lazy) == 8
    assert model_bytes(lazy) == 32


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        (nn.Linear(2, 2), torch.float32),
        (nn.Linear(2, 2).double(), torch.float64),
        (nn.Linear(2, 2, dtype=torch.complex128), torch.float64),
        (nn.LazyLinear(2, dtype=torch.bfloat16), torch.bfloat16),
        (nn.ReLU(), torch.float32),
    ],
)
def test_inputs_have_the_dtype_of_the_weights(model: nn.Module, dtype: torch.dtype) -> None:
    assert floating_dtype(model) is dtype
