from __future__ import annotations

import pytest

from tests.scripts.observations import observed


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([32] * 9 + [5], 32), ([2048, 1638] * 5, 2048), ([None, None], None), ([None, 8], 8)],
)
def test_the_batch_size_is_that_of_full_batches(sizes: list[int | None], expected: int | None):
    assert observed(sizes=sizes).batch_size == expected


def test_micro_batches_are_fetches_or_backward_passes_of_each_optimizer():
    assert observed(fetches=4, backwards=4).micro_batches == 4
    assert observed(loader=None, fetches=0, backwards=8).micro_batches == 8
    # A GAN computes a gradient for each of its optimizers.
    assert observed(loader=None, backwards=2, losses_apart=2).micro_batches == 1
    # Two optimizers may share one loss.
    assert observed(loader=None, backwards=4, optimizers=["Muon", "AdamW"]).micro_batches == 4
    assert observed(fetches=0, backwards=0).micro_batches == 1


def test_first_steps_are_a_measurement_of_their_size():
    measured = observed(losses=[4.0, 3.0, 2.0, None, 1.0, 1.0, 1.0], peak_bytes=7).measured
    assert (measured.observed_size, measured.steps, measured.peak_bytes) == (32, 9, 7)
    assert (measured.first_loss, measured.last_loss) == (3.0, 1.0)
