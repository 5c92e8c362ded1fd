"""Pure: the sizes of samples, the largest of them, and the largest batch that they make.

A sample's extent is its number of tensor elements, since that makes a batch large: the length of a text, the
pixels of an image, the boxes in it. Tensors and arrays are recognized by their `shape`, so that this module
imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean, median
from typing import Any

from autobatch.records.workload import SampleSizes, SequenceLengths

# The key of the tokens in a dict of inputs. Without it, the first sequence of integers counts.
_TOKENS_KEY = "input_ids"


@dataclass(frozen=True, slots=True)
class Extent:
    """The elements of a sample, and its length where its input is a sequence of tokens."""

    elements: int
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Scan:
    """The sizes of the samples that were read.

    `largest`: their places in the data set, the largest first; empty where all are of one size.
    """

    sizes: SampleSizes
    largest: tuple[int, ...] = ()


def extent_of(sample: Any, inputs: Any) -> Extent:
    """The extent of a sample, of which `inputs` is the part that a model gets."""
    return Extent(_elements(sample), _tokens(sample if _is_list_of_integers(sample) else inputs))


def sum_up(extents: Sequence[Extent]) -> SampleSizes:
    """The sizes of one or more samples. Tokens count where every sample has some."""
    elements = [extent.elements for extent in extents]
    lengths = [extent.tokens for extent in extents if extent.tokens is not None]
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
    """The scan of at least one sample; `places` are their indices in the data set."""
    sizes = sum_up(extents)
    return Scan(sizes, tuple(places[i] for i in largest_first(extents)) if sizes.vary else ())


def largest_first(extents: Sequence[Extent]) -> list[int]:
    """Positions in `extents`, the largest first, equal extents in their own order."""
    return sorted(range(len(extents)), key=lambda i: -extents[i].elements)


def worst(largest: Sequence[int], batch_size: int, dataset_size: int) -> list[int]:
    """Places of the largest batch: the first `batch_size` of `largest`, if the whole data set was scanned.

    Otherwise the largest samples are repeated: the unscanned part has its share of such samples.
    """
    scanned = len(largest)
    distinct = min(scanned, -(-scanned * batch_size // max(scanned, dataset_size)))
    return [largest[i * distinct // batch_size] for i in range(batch_size)]


def _elements(part: Any) -> int:
    """The numbers in a nested sample. A text counts its characters, any other object counts as one."""
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
        value = getattr(part, name, None)
        if isinstance(value, tuple) and all(isinstance(length, int) for length in value):
            return value
    return None


def _tokens(inputs: Any) -> int | None:
    """The length of a sequence of integers, or of the first such sequence in a dict or a tuple."""
    shape = _shape(inputs)
    if shape is not None:
        return shape[0] if len(shape) == 1 and "int" in str(getattr(inputs, "dtype", "")) else None
    if isinstance(inputs, Mapping):
        parts = [inputs[_TOKENS_KEY]] if _TOKENS_KEY in inputs else list(inputs.values())
    elif _is_list_of_integers(inputs):
        return len(inputs)
    else:
        parts = list(inputs) if isinstance(inputs, (list, tuple)) else []
    return next((length for length in map(_tokens, parts) if length is not None), None)


def _is_list_of_integers(part: Any) -> bool:
    # A tuple is no sequence but a record: (user, item) has no length.
    return isinstance(part, list) and bool(part) and all(type(number) is int for number in part)
