"""A batch of any size without data, from two small ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autobatch.memory.batch_extrapolation import ExtrapolationError, extrapolate_batch


def batch(size: int) -> Any:
    """Images, labels, the edges of graphs of five nodes, and a number that is the same in every batch."""
    return {
        "images": torch.zeros(size, 3, 8, 8),
        "labels": [torch.zeros(size, dtype=torch.long), 7],
        "edges": torch.zeros(2, 5 * size, dtype=torch.int32),
    }


def test_every_tensor_grows_linearly() -> None:
    made = extrapolate_batch(batch(4), 4, batch(8), 8, 1000)
    real = batch(1000)
    assert made["images"].shape == real["images"].shape
    assert made["edges"].shape == real["edges"].shape
    assert made["edges"].dtype == torch.int32
    assert made["labels"][0].shape == (1000,)
    assert made["labels"][1] == 7
    assert made["images"].device.type == "meta"


@pytest.mark.parametrize(
    "make",
    [
        lambda size: [torch.zeros(3)] * size,
        lambda size: (torch.zeros(size), size),
        lambda size: torch.zeros(size) if size == 4 else torch.zeros(size, 1),
        lambda size: torch.zeros(5 if size == 4 else 6),
    ],
    ids=["parts", "value", "form", "fraction"],
)
def test_a_batch_that_does_not_grow_linearly_is_refused(make: Any) -> None:
    with pytest.raises(ExtrapolationError):
        extrapolate_batch(make(4), 4, make(8), 8, 9)
