"""One sample in the place of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_dataset(data: Any) -> Any:
    """A data set of the one sample that `data` is; anything else as it is.

    A sample is a dict, or a tuple whose parts aren't arrays with one row for each of several samples.
    """
    if isinstance(data, Mapping):
        return [dict(data)]
    if isinstance(data, tuple):
        rows = {_rows(part) for part in data}
        return [data] if None in rows or len(rows) > 1 else data
    return data


def _rows(part: Any) -> int | None:
    """The length of an array's first dimension; None for what has none."""
    shape = getattr(part, "shape", None)
    return int(shape[0]) if shape else None
