"""The heap's blocks in use, by which memory that every step keeps is told from gaps that stay free."""

from __future__ import annotations

import pytest
import torch

from autobatch.devices import heap

KIB = 1 << 10


@pytest.mark.parametrize("size_bytes", [64 * KIB, 4096 * KIB])
def test_blocks_count_as_long_as_they_are_in_use(size_bytes: int) -> None:
    before = heap.allocated_bytes()
    if before is None:
        pytest.skip("this C library does not count its blocks")
    blocks = [torch.empty(size_bytes, dtype=torch.uint8) for _ in range(16)]
    held = heap.allocated_bytes()
    assert held is not None
    assert 16 * size_bytes <= held - before <= 17 * size_bytes
    del blocks
    after = heap.allocated_bytes()
    assert after is not None
    assert after - before < size_bytes
