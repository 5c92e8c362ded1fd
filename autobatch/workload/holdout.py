"""Pure: splits the samples into those that short trainings learn from, and those that judge them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Without validation data, this share of the training set is held out.
_SHARE = 0.1
# With fewer held out, their mean loss is too noisy to compare trainings.
FEWEST_HELD_OUT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Indices of training samples, and of held-out samples in the validation or the training set."""

    train: Sequence[int]
    held_out: Sequence[int]
    from_validation: bool

    @property
    def description(self) -> str:
        """`360 validation samples`, or `143 samples held out of the training set`."""
        count = f"{len(self.held_out):,}"
        return (
            f"{count} validation samples"
            if self.from_validation
            else f"{count} samples held out of the training set"
        )


def split(
    size: int, validation_size: int | None, wanted: int, seed: int, keys: Sequence[Any] | None = None
) -> Split | None:
    """A split with up to `wanted` held-out samples, the same for the same seed; None for too few samples.

    They come from the validation set where it has enough, else from a tenth of the training set. Nothing of
    that tenth is trained on, however few are wanted. `keys`: what each sample is, where one may come twice.
    """
    if validation_size is not None and validation_size >= FEWEST_HELD_OUT:
        held_out = random.Random(seed).sample(range(validation_size), min(wanted, validation_size))
        return Split(train=range(size), held_out=held_out, from_validation=True)
    spared = int(_SHARE * size)
    if spared < FEWEST_HELD_OUT:
        return None
    order = random.Random(seed).sample(range(size), size)
    train = order[spared:]
    if keys is not None:
        held_out_keys = {keys[place] for place in order[:spared]}
        train = [place for place in train if keys[place] not in held_out_keys]
    return Split(train=train, held_out=order[: min(wanted, spared)], from_validation=False)
