"""Pure: how large samples are, which of them are the largest, and what a scan of them has found.

A sample's extent is its number of tensor elements, since that is what makes a batch large: the length of a
text, the pixels of an image, the boxes in it. Knows tensors and arrays by their `shape`, so that it imports
neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean, median
from typing import Any

from autobatch.records.workload import SampleSizes, SequenceLengths

# What a dict of inputs calls its tokens; any other sequence of integers counts where this is missing.
_TOKENS_KEY = "input_ids"


@dataclass(frozen=True, slots=True)
class Extent:
    """One sample: its elements, and its length where its input is a sequence of tokens."""

    elements: int
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found in the samples that were read.

    `largest`: their places in the data set, the largest first; empty where all are of one size.
    """

    sizes: SampleSizes
    largest: tuple[int, ...] = ()


def extent_of(sample: Any, inputs: Any) -> Extent:
    """The extent of a sample, of which `inputs` is the part that a model gets."""
    return Extent(_elements(sample), _tokens(sample if _is_list_of_integers(sample) else inputs))


def sum_up(extents: Sequence[Extent]) -> SampleSizes:
    """What one or more extents have in common. Tokens count where every sample has some."""
    elements = [one.elements for one in extents]
    lengths = [one.tokens for one in extents if one.tokens is not None]
    return SampleSizes(
        scanned=len(elements),
        smallest=min(elements),
        median=float(median(elements)),
        largest=max(elements),
        tokens=SequenceLengths(mean=fmean(lengths), median=float(median(lengths)), longest=max(lengths))
        if len(lengths) == len(elements)
        else None,
    )


def scan_of(places: Sequence[int], extents: Sequence[Extent]) -> Scan:
    """The scan of samples that lie at these places of a data set; one at least."""
    sizes = sum_up(extents)
    return Scan(sizes, tuple(places[i] for i in largest_first(extents)) if sizes.vary else ())


def largest_first(extents: Sequence[Extent]) -> list[int]:
    """Positions in `extents`, the largest first, equal ones in the order in which they come."""
    return sorted(range(len(extents)), key=lambda i: -extents[i].elements)


def worst(largest: Sequence[int], batch_size: int, dataset_size: int) -> list[int]:
    """Places of the largest batch: the first `batch_size` of `largest` where these are of the whole data set.

    Of a part of it, the largest few stand for as many more of their kind among those that were not read.
    """
    scanned = len(largest)
    few = min(scanned, -(-scanned * batch_size // max(scanned, dataset_size)))
    return [largest[i * few // batch_size] for i in range(batch_size)]


def _elements(part: Any) -> int:
    """Numbers in a nested sample; a text counts its characters, anything unknown is one."""
    shape = _shape(part)
    if shape is not None:
        return prod(shape)
    if isinstance(part, Mapping):
        return sum(map(_elements, part.values()))
    if isinstance(part, (str, bytes)):
        return len(part)
    if isinstance(part, (list, tuple)):
        return len(part) if _is_list_of_integers(part) else sum(map(_elements, part))
    return 1


def _shape(part: Any) -> tuple[int, ...] | None:
    """The shape of a tensor or an array; of a PIL image, its width and height."""
    for name in ("shape", "size"):
        found = getattr(part, name, None)
        if isinstance(found, tuple) and all(isinstance(one, int) for one in found):
            return found
    return None


def _tokens(inputs: Any) -> int | None:
    """The length of a sequence of integers, or of the first one in a dict or a tuple of inputs."""
    shape = _shape(inputs)
    if shape is not None:
        return shape[0] if len(shape) == 1 and "int" in str(getattr(inputs, "dtype", "")) else None
    if isinstance(inputs, Mapping):
        parts = [inputs[_TOKENS_KEY]] if _TOKENS_KEY in inputs else list(inputs.values())
    elif _is_list_of_integers(inputs):
        return len(inputs)
    else:
        parts = list(inputs) if isinstance(inputs, (list, tuple)) else []
    return next((found for found in map(_tokens, parts) if found is not None), None)


def _is_list_of_integers(part: Any) -> bool:
    # A tuple is no sequence but a record: (user, item) has no length.
    return isinstance(part, list) and bool(part) and all(type(one) is int for one in part)
