"""The last batch of an epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DistributedSampler

from tests import builders


@given(size=st.integers(1, 400), batch_size=st.integers(1, 60), ranks=st.integers(1, 4))
def test_the_last_batch_is_that_of_a_loader(size: int, batch_size: int, ranks: int) -> None:
    sampler = DistributedSampler(range(size), num_replicas=ranks, rank=0)
    *_, last = BatchSampler(sampler, batch_size, drop_last=False)
    samples = builders.workload(dataset_size=size).last_batch(batch_size, ranks)
    assert samples == (0 if len(last) == batch_size else len(last))


@pytest.mark.parametrize("fields", [{"dataset_size": None}, {"dataset_size": 9, "drop_last": True}])
def test_a_last_batch_that_is_left_out_or_unknown(fields: dict[str, int | None]) -> None:
    assert builders.workload(**fields).last_batch(4, 1) == 0
