"""The random state of Python, NumPy and torch in this process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept() -> Iterator[None]:
    """A context that leaves the random state unchanged.

    Samples that are read early must not change later draws, such as the model's first weights.
    """
    python, numbers, drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(drawn)
