"""A data set from a single sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_dataset(data: Any) -> Any:
    """A data set of a single sample if `data` is a sample; else `data` unchanged.

    A sample is a dict, or a tuple whose parts aren't arrays with a row for each of several samples.
    """
    if isinstance(data, Mapping):
        return [dict(data)]
    if isinstance(data, tuple):
        rows = {_rows(part) for part in data}
        return [data] if None in rows or len(rows) > 1 else data
    return data


def _rows(part: Any) -> int | None:
    """The length of an array's first dimension; None for a value without dimensions."""
    shape = getattr(part, "shape", None)
    return int(shape[0]) if shape else None
