"""Pure: the sizes of samples, the largest of them, and the largest batch that they make.

A sample's extent is its number of tensor elements, since that makes a batch large: the length of a text, the
pixels of an image, the boxes in it, the nodes of a graph. Tensors and arrays are recognized by their `shape`,
so that this module imports neither torch nor numpy. Objects are looked into by their attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import isroutine
from math import prod
from statistics import fmean, median
from types import ModuleType
from typing import Any

from autobatch.records.workload import SampleSizes, SequenceLengths

# The key of the tokens in a dict of inputs. Without it, the first sequence of integers counts.
_TOKENS_KEY = "input_ids"
# How deep objects are looked into: a graph of PyTorch Geometric keeps its tensors three levels down.
_DEEPEST = 8
_PLAIN = (int, float, complex, type(None))


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


def is_opaque(sample: Any) -> bool:
    """True for a sample that shows neither arrays nor text, such as a path: its size shows once collated."""
    return _visible(sample, _DEEPEST) is None


def is_plain(sample: Any) -> bool:
    """True for a number, None, or a record of these: it is of one size."""
    if isinstance(sample, (list, tuple)):
        return all(map(is_plain, sample))
    return isinstance(sample, _PLAIN)


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
    """The numbers in a nested sample. A text counts its characters, another object as one."""
    if isinstance(part, Mapping):
        return sum(map(_elements, part.values()))
    if _holds_objects(part):
        return sum(map(_elements, _items_of(part)))
    if isinstance(part, (list, tuple)) and _shape(part) is None:
        return len(part) if _is_list_of_integers(part) else sum(map(_elements, part))
    visible = _visible(part, _DEEPEST)
    return 1 if visible is None else visible


def _visible(part: Any, depth: int, *, texts: bool = True) -> int | None:
    """The numbers in the arrays and the characters in the texts of a nested sample; None without any."""
    shape = _shape(part)
    if shape is not None:
        return prod(shape)
    if isinstance(part, (str, bytes)):
        return len(part) if texts else None
    if isinstance(part, _PLAIN) or depth == 0:
        return None
    if _is_list_of_integers(part):
        return len(part)
    container = isinstance(part, (Mapping, list, tuple)) or _holds_objects(part)
    parts = _items_of(part) if container else _attributes_of(part)
    # The texts in an object are names, such as the parts of a path.
    visible = (_visible(held, depth - 1, texts=texts and container) for held in parts)
    counts = [count for count in visible if count is not None]
    return sum(counts) if counts else None


def _holds_objects(part: Any) -> bool:
    """True for an array of NumPy's whose entries are objects, such as arrays of several lengths."""
    return str(getattr(part, "dtype", "")) == "object"


def _items_of(container: Any) -> list[Any]:
    if _holds_objects(container):
        items = container.tolist()
        return items if isinstance(items, list) else [items]
    return list(container.values() if isinstance(container, Mapping) else container)


def _attributes_of(part: Any) -> list[Any]:
    """The values of an object's attributes; none for classes, functions and modules."""
    if isinstance(part, (type, ModuleType)) or isroutine(part):
        return []
    slots = (name for kind in type(part).__mro__ for name in _slots_of(kind))
    attributes = {name: getattr(part, name, None) for name in slots}
    return list((attributes | getattr(part, "__dict__", {})).values())


def _slots_of(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _shape(part: Any) -> tuple[int, ...] | None:
    """The shape of a tensor or an array of numbers; of a PIL image, its width and height."""
    if _holds_objects(part):
        return None
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
