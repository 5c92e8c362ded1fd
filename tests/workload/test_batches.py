"""Batches of every shape, on their way to a device and split into inputs and target."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from autobatch.workload.batches import describe_batch, split_batch, to_device
from tests.workload.datasets import INPUTS, TARGETS

X = torch.arange(12.0).reshape(4, 3)

Pair = namedtuple("Pair", "inputs target")


class Rows(list[Any]):
    """A list of a class that pytree does not know."""


class Columns(dict[str, Any]):
    """A dict of a class that pytree does not know."""


class Graph:
    """Moves itself, like the batches of PyTorch Geometric."""

    def __init__(self, nodes: torch.Tensor) -> None:
        self.nodes = nodes

    def to(self, device: str) -> Graph:
        return Graph(self.nodes.to(device))


class Frames:
    """Moves itself in place, and returns nothing."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def to(self, device: str) -> None:
        self.images = self.images.to(device)


@dataclass(frozen=True)
class Scene:
    """A batch by its attributes, with a constructor that takes others."""

    images: list[torch.Tensor]
    target: dict[str, torch.Tensor]
    name: InitVar[str]


def tensors(part: Any) -> list[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        return [part]
    if isinstance(part, Graph):
        return [part.nodes]
    if isinstance(part, PackedSequence):
        return [part.data]
    if isinstance(part, Scene):
        return [*part.images, *part.target.values()]
    values = part.values() if hasattr(part, "values") else part if isinstance(part, (list, tuple)) else ()
    return [tensor for value in values for tensor in tensors(value)]


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, X),
        [X, {"mask": X}],
        Pair(X, [X]),
        OrderedDict(x=X),
        UserDict(x=X),
        Columns(x=X),
        Rows([X, (X,)]),
        Graph(X),
        (Graph(X), X),
        Scene([X], {"boxes": X}, "a.png"),
        pack_sequence([X, X[:2]]),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_a_batch_keeps_its_type_on_the_way_to_the_device(batch: Any) -> None:
    moved = to_device(batch, "meta")
    assert type(moved) is type(batch)
    assert [tensor.device.type for tensor in tensors(moved)] == ["meta"] * len(tensors(batch))
    assert len(tensors(batch)) > 0


def test_the_lengths_of_a_packed_sequence_stay_on_the_cpu() -> None:
    """torch takes them nowhere else.

    pytorch/pytorch 7221; pytorch_geometric 3066: packed sequences on a device.
    """
    assert to_device(pack_sequence([X]), "meta").batch_sizes.device.type == "cpu"


def test_values_that_are_no_tensors_stay_as_they_are() -> None:
    batch = {"pair": Pair(X, [X]), "name": "a", "count": 3, "nothing": None}
    moved = to_device(batch, "cpu")
    assert isinstance(moved["pair"], Pair)
    assert isinstance(moved["pair"].target, list)
    assert (moved["name"], moved["count"], moved["nothing"]) == ("a", 3, None)


@pytest.mark.parametrize(
    ("batch", "inputs", "target"),
    [
        (1, 1, None),
        ([1], 1, None),
        ((1, 2), 1, 2),
        ([1, 2, 3], (1, 2), 3),
        ({"a": 1, "y": 2}, {"a": 1}, 2),
        ({"a": 1}, {"a": 1}, None),
    ],
)
def test_inputs_and_target_of_a_batch(batch: Any, inputs: Any, target: Any) -> None:
    assert split_batch(batch) == (inputs, target)


@pytest.mark.parametrize(
    ("batch", "description"),
    [
        (INPUTS, "float32[20, 2]"),
        ((INPUTS, TARGETS), "(float32[20, 2], int64[20])"),
        ({"x": INPUTS, "names": ["a"]}, "{x: float32[20, 2], names: (str)}"),
        ([1] * 9, "(int, int, int, int, int, int, ...)"),
        (np.zeros(3, dtype=np.uint8), "uint8[3]"),
        (None, "NoneType"),
    ],
)
def test_what_a_batch_is_made_of(batch: Any, description: str) -> None:
    assert describe_batch(batch) == description


def test_an_object_that_moves_itself_in_place_stays() -> None:
    frames = Frames(X)
    moved, target = to_device((frames, X), "meta")
    assert moved is frames
    assert frames.images.device == target.device == torch.device("meta")
