"""The description of a training: the epochs that steps amount to, and layers over the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autobatch.records.workload import StepCount
from tests.workload.trainings import linear, trainer


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(None, 50, 50 * 8 / 64), (3.0, 50, 3.0), (None, None, None)],
)
def test_a_training_that_steps_end_has_epochs_too(
    epochs: float | None, steps: int | None, expected: float | None
) -> None:
    schedule = () if steps is None else (StepCount(name="max_steps", steps=steps),)
    rows, labels = torch.randn(64, 4), torch.randint(0, 3, (64,))
    made = trainer(linear(), (rows, labels), batch_size=8, epochs=epochs, schedule=schedule)
    workload = made.describe()
    assert workload.epochs == expected
    assert workload.counted_in_steps == (epochs is None and steps is not None)


def test_layers_that_normalize_over_the_batch_are_named() -> None:
    rows, labels = torch.randn(64, 4), torch.randint(0, 3, (64,))
    normalizing = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    assert trainer(normalizing, (rows, labels)).describe().batch_statistics == "BatchNorm1d"
    by_sample = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(), nn.Linear(8, 3))
    assert trainer(by_sample, (rows, labels)).describe().batch_statistics == ""
