"""Digests of objects: the same in every process, another one after a change."""

from __future__ import annotations

import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autobatch.workload.object_digest import ObjectDigest


def smooth(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, target, label_smoothing=0.1)


def plain(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, target)


def written(code: str, name: str = "made", **known: Any) -> Any:
    """What `name` is after running code that belongs to no file, as in a notebook."""
    space = {"__name__": "__main__", "torch": torch, "nn": nn, **known}
    exec(code, space)
    return space[name]


def digest(value: Any) -> str:
    return ObjectDigest(set()).add(value).hexdigest()


SAME = """
# A comment.
def made(x):
    def inner(y):
        return x in {"a", "b", "c"} and y * FACTOR
    return inner
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y * FACTOR", "y + FACTOR"),
        ('"c"', '"d"'),
        ("FACTOR", "OTHER"),
        ("made(x)", "made(x, z=1)"),
        ("made(x)", "made(x=3)"),
    ],
)
def test_code_counts_by_what_it_does(old: str, new: str) -> None:
    known = {"FACTOR": 2, "OTHER": 2}
    before = digest(written(SAME, **known))
    assert digest(written(SAME.replace("# A comment.", "\n\n"), **known)) == before
    assert digest(written(SAME.replace(old, new), **known)) != before
    assert digest(written(SAME, FACTOR=3)) != before
    assert digest(written(SAME, **known, UNUSED=1)) == before


CLASS = """
class Base:
    limit = 3
    def close(self): return 1

class made(Base):
    @property
    def wide(self): return 2
    @staticmethod
    def tall(): return 3
    def forward(self, x): return x
"""


@pytest.mark.parametrize("old", ["limit = 3", "return 1", "return 2", "return 3", "return x"])
def test_a_class_counts_with_its_bases_and_all_its_members(old: str) -> None:
    before = digest(written(CLASS))
    assert digest(written(CLASS)) == before
    new = old.replace("3", "4").replace("1", "4").replace("2", "4").replace("x", "x + 1")
    assert digest(written(CLASS.replace(old, new))) != before
    assert digest(written(CLASS.replace(old, new))()) != digest(written(CLASS)())


class Held:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


def test_objects_count_by_what_they_hold() -> None:
    one = Held(a=1, b=[1, 2], c={"x": (1.0, None)}, d={"p", "q", "r"}, e=Path("a"), f=torch.float16)
    assert digest(one) == digest(Held(**vars(one)))
    for name, other in {"a": 2, "b": [2, 1], "c": {"x": (1.5, None)}, "d": {"p"}, "f": torch.float32}.items():
        assert digest(Held(**{**vars(one), name: other})) != digest(one), name
    assert digest(Held(a=1)) != digest(Held(b=1))
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest([[1], 2]) != digest([[1, 2]])
    assert digest([True]) != digest([1])


def test_what_is_long_counts_by_its_length() -> None:
    assert digest(list(range(1000))) == digest(list(range(1000, 2000)))
    assert digest(list(range(1000))) != digest(list(range(1001)))
    assert digest("a" * 10_000) != digest("a" * 9_999 + "b")


def test_circles_depths_and_strange_objects_end() -> None:
    around: list[Any] = [1]
    around.append(around)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    cached = lru_cache(plain)
    assert digest(around) == digest(around)
    assert digest(deep) == digest(deep)
    assert digest(cached) == digest(lru_cache(plain)) != digest(lru_cache(smooth))
    for strange in (object(), len, sys, iter([1]), nn.LazyLinear(3), torch.Generator(), threading.Lock()):
        assert digest(strange) == digest(strange)
