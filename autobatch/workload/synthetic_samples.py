"""Random samples of a given shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from autobatch.workload.samples import Samples


class SyntheticSamples(Samples):
    """Random inputs of one shape, and random classes: good for memory and speed, never for learning."""

    kind = "synthetic inputs"
    size = None
    synthetic = True

    def __init__(self, input_shape: Sequence[int], classes: int | None) -> None:
        self._shape = tuple(input_shape)
        self._classes = classes

    def batch(self, batch_size: int, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(batch_size, *self._shape, generator=generator)
        if self._classes is None:
            return inputs
        return inputs, torch.randint(self._classes, (batch_size,), generator=generator)

    def largest(self, batch_size: int, seed: int) -> Any:
        return self.batch(batch_size, seed)

    def repeated(self, batch_size: int) -> Any:
        return self.batch(batch_size, 0)
