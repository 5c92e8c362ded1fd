"""A context that leaves the random state of all three libraries unchanged."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import torch

from autobatch.workload.random_state import random_state_kept


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def test_draws_within_the_context_change_no_later_draw() -> None:
    seed()
    expected = draws()
    seed()
    with random_state_kept():
        assert draws() == expected
    assert draws() == expected


def test_also_after_an_error() -> None:
    seed()
    expected = draws()
    seed()
    with contextlib.suppress(OSError), random_state_kept():
        draws()
        raise OSError("no file")
    assert draws() == expected
