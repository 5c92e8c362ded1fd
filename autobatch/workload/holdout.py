"""Pure: which samples the check's trainings learn from, and which are held out to judge them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Without validation data, this share of the training set is held out.
_SHARE = 0.1
# Fewer held out tell nothing; with fewer samples in all, none can be spared.
FEWEST_HELD_OUT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Indices into the training set, and of the samples held out, from the validation set or that one too."""

    train: Sequence[int]
    held_out: Sequence[int]
    from_validation: bool

    @property
    def told(self) -> str:
        """`360 validation samples`, or `143 samples held out of the training set`."""
        count = f"{len(self.held_out):,}"
        return (
            f"{count} validation samples"
            if self.from_validation
            else f"{count} samples held out of the training set"
        )


def split(size: int, validation_size: int | None, wanted: int, seed: int) -> Split | None:
    """`wanted` samples held out, or as many as there are; the same for the same seed. None: too few samples.

    They come from the validation set where it has enough, else from a tenth of the training set, which
    then is not trained on, however many of it are wanted.
    """
    if validation_size is not None and validation_size >= FEWEST_HELD_OUT:
        held_out = random.Random(seed).sample(range(validation_size), min(wanted, validation_size))
        return Split(train=range(size), held_out=held_out, from_validation=True)
    spared = int(_SHARE * size)
    if spared < FEWEST_HELD_OUT:
        return None
    order = random.Random(seed).sample(range(size), size)
    return Split(train=order[spared:], held_out=order[: min(wanted, spared)], from_validation=False)
