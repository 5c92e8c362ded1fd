"""Warnings of Lightning: what silences them in a worker must not silence them in other tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _filters_kept() -> Iterator[None]:
    with warnings.catch_warnings():
        yield
