"""Accelerate and skorch, the real ones, with the size that `find` gave."""

from __future__ import annotations

from typing import Any

import pytest
import skorch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autobatch
from autobatch import Limits, Recommendation

INPUTS = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(64) % 3


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))


def accelerate_states() -> list[dict[str, Any]]:
    return [dict(one._shared_state) for one in (PartialState, AcceleratorState, GradientState)]


@pytest.fixture(scope="module")
def found() -> Recommendation:
    """One search for both, while an Accelerator is there that accumulates."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    before = accelerate_states()
    model = make_model()
    limits = Limits(max_batch=4, budget_seconds=2, check=False)
    found = autobatch.find(model, TensorDataset(INPUTS, TARGETS), device="cpu", limits=limits)
    assert accelerate_states() == before
    assert accelerator.sync_gradients
    assert accelerator.gradient_accumulation_steps == 2
    return found


def test_accelerate_trains_with_the_rebuilt_loader(found: Recommendation):
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=16, shuffle=True, drop_last=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, autobatch.rebuild(loader, found.batch_size)
    )
    steps, sizes = 0, []
    start = [p.detach().clone() for p in model.parameters()]
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
        sizes.append(len(targets))
        steps += accelerator.sync_gradients
        if steps == 2:
            break
    assert sizes == [found.batch_size] * 4
    effective = found.batch_size * accelerator.num_processes * accelerator.gradient_accumulation_steps
    assert sum(sizes) == 2 * effective
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))


def test_what_accelerate_has_prepared_is_refused(found: Recommendation):
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=16)
    prepared = Accelerator(cpu=True).prepare(loader)
    with pytest.raises(autobatch.AutobatchError) as raised:
        autobatch.rebuild(prepared, found)
    assert raised.value.code in ("batch_sampler", "own_loader")


def test_skorch_trains_with_it(found: Recommendation):
    net = skorch.NeuralNetClassifier(
        make_model(), criterion=nn.CrossEntropyLoss, batch_size=16, max_epochs=1, train_split=None, verbose=0
    )
    sizes: list[int] = []

    class Sizes(skorch.callbacks.Callback):
        def on_batch_end(self, net: Any, batch: Any, training: bool, **kwargs: Any) -> None:
            sizes.append(len(batch[1]))

    net.set_params(batch_size=found.batch_size, callbacks=[("sizes", Sizes())])
    net.fit(INPUTS.numpy(), TARGETS.numpy())
    assert sizes[:-1] == [found.batch_size] * (len(sizes) - 1)
    assert sum(sizes) == len(INPUTS)


@pytest.mark.slow
def test_find_takes_a_skorch_module(found: Recommendation):
    net = skorch.NeuralNetClassifier(make_model(), criterion=nn.CrossEntropyLoss, batch_size=16).initialize()
    limits = Limits(max_batch=4, budget_seconds=2, check=False)
    again = autobatch.find(
        net.module_, (INPUTS, TARGETS), optimizer=net.optimizer_, batch_size=net.batch_size, limits=limits
    )
    assert again.workload.optimizer == "SGD"
    assert again.batch_size <= 4
