"""Parts on their way to the worker: the same training arrives, and what can't be sent is named."""

from __future__ import annotations

import threading
from dataclasses import fields
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from autobatch.records.errors import TargetError, UsageError
from autobatch.workload.data_loader import LoaderSettings
from autobatch.workload.parts import Parts
from autobatch.workload.serialization import packed, sendable, slow_frameworks, unpacked, unpacked_parts
from tests.workload.datasets import Mapped, Stream


def sent(**given: Any) -> Parts:
    with packed(sendable(Parts(**given))) as path:
        return unpacked_parts(path)


def test_an_optimizer_arrives_with_the_parameters_of_its_model() -> None:
    model = nn.Linear(2, 3)
    parts = sent(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert parts.ready_model is not None
    assert parts.ready_model is not model
    trained = parts.optimizer.param_groups[0]["params"]
    assert list(map(id, trained)) == list(map(id, parts.ready_model.parameters()))


def test_functions_without_a_file_arrive() -> None:
    width = 3
    parts = sent(model=lambda: nn.Linear(2, width), loss_fn=lambda output, target: output.sum())
    assert parts.make_model().weight.shape == (3, 2)
    assert parts.loss_fn is not None
    assert float(parts.loss_fn(torch.ones(2), None)) == 2.0


def test_a_loader_is_taken_apart() -> None:
    loader = DataLoader(Mapped(), batch_size=6, num_workers=2, collate_fn=len)
    parts = sent(model=nn.Linear(2, 3), dataset=loader, val_dataset=DataLoader(Mapped(4), collate_fn=max))
    assert isinstance(parts.dataset, Mapped)
    assert parts.loader == LoaderSettings(workers=2, prefetch_factor=2)
    assert (parts.batch_size, parts.collate_fn) == (6, len)
    assert isinstance(parts.val_dataset, Mapped)
    assert parts.val_collate_fn is max


def test_a_size_and_a_collate_function_beside_a_loader_come_first() -> None:
    parts = sendable(Parts(model=nn.Linear(2, 3), dataset=DataLoader(Mapped()), batch_size=9, collate_fn=len))
    assert (parts.batch_size, parts.collate_fn) == (9, len)


def test_parts_without_a_loader_stay_as_they_are() -> None:
    parts = Parts(model=nn.Linear(2, 3), dataset=Mapped(), val_collate_fn=len, epochs=3.0)
    same = sendable(parts)
    assert all(getattr(same, field.name) is getattr(parts, field.name) for field in fields(parts))


def test_a_loader_of_whole_batches_is_refused() -> None:
    with pytest.raises(TargetError, match="batch_size=None"):
        sendable(Parts(model=nn.Linear(2, 3), dataset=DataLoader(Stream(4), batch_size=None)))


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.body.guard = threading.Lock()  # type: ignore[assignment]


def test_the_attribute_that_can_not_be_sent_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        sent(model=Locked())
    assert caught.value.message == "`model` can't be sent to the worker process"
    assert caught.value.facts[0].startswith("`model.body.guard`: TypeError")


def test_objects_of_any_name_can_be_packed() -> None:
    with packed({"rows": [1, 2]}) as path:
        assert unpacked(path) == {"rows": [1, 2]}
    with pytest.raises(UsageError, match="`guard` can't be sent"), packed({"guard": threading.Lock()}):
        pass


def test_a_model_that_is_none_is_refused_where_it_arrives() -> None:
    with pytest.raises(TargetError, match="is a str, not an nn"):
        sent(model="resnet50")


def test_plain_torch_needs_no_framework() -> None:
    assert slow_frameworks(Parts(model=nn.Linear(2, 3), dataset=Mapped())) == ()


def test_data_that_a_function_makes_is_made_in_the_worker() -> None:
    """h5py 1512: a data set with an open HDF5 file."""
    parts = Parts(
        model=nn.Linear(2, 2),
        dataset=lambda: DataLoader(Mapped(30), batch_size=5, num_workers=1, drop_last=True),
        val_dataset=partial(Mapped, 7),
    )
    with packed(sendable(parts)) as path:
        unpacked = unpacked_parts(path)
    assert (len(unpacked.dataset.dataset), len(unpacked.val_dataset), unpacked.batch_size) == (30, 7, 5)
    assert unpacked.loader is not None
    assert (unpacked.loader.workers, unpacked.loader.drop_last) == (1, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model", "find(lambda: Net(), ...)"),
        ("dataset", "find(model, lambda: Images(path))"),
        ("val_dataset", "val_dataset=lambda: Images(path)"),
        ("optimizer", "lambda params"),
        ("loss_fn", "put it into a file"),
    ],
)
def test_the_hint_names_only_ways_that_are_open(name: str, words: str) -> None:
    held = {"model": nn.Linear(2, 2), name: SimpleNamespace(lock=threading.Lock())}
    with pytest.raises(UsageError) as caught, packed(Parts(**held)):
        pass
    assert f"`{name}`" in caught.value.message
    assert words in caught.value.hint
    assert ("function" in caught.value.hint) == (name != "loss_fn")
