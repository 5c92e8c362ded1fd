"""Sizes are tried from the same first state: weights, optimizer, attributes and schedules."""

from __future__ import annotations

import torch
from torch import nn

from autobatch.devices.cpu import CpuBackend
from autobatch.engines.messages import Timed
from autobatch.records.trial import Outcome
from autobatch.worker import first_state
from autobatch.worker.first_state import FirstState
from autobatch.worker.step_timing import Measurer
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer


class Carrying(nn.Module):
    """A recurrent network whose hidden state is carried from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 1)
        self.state: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output, (hidden, cell) = self.rnn(inputs, self.state)
        self.state = hidden.detach(), cell.detach()
        scores: torch.Tensor = self.head(output[:, -1])
        return scores


class Drawing(nn.Module):
    """Keeps the last activations for a plot. No later batch uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.drawn = self.body(inputs[:, -1])
        scores: torch.Tensor = self.head(self.drawn)
        return scores


def measurer(model: nn.Module, rate: float = 0.1) -> tuple[Measurer, Trainer]:
    dataset = (torch.randn(64, 5, 3), torch.randn(64, 1))
    parts = Parts(model=model, dataset=dataset, optimizer=lambda p: torch.optim.SGD(p, lr=rate))
    made = Trainer(parts, open_samples(dataset), None, "cpu")
    return Measurer(CpuBackend(), made, 0, FirstState(made)), made


def test_a_hidden_state_fails_no_other_size_and_is_named() -> None:
    measure, _ = measurer(Carrying())
    tries = [measure.try_out(size, 60.0) for size in (8, 16, 4)]
    assert [tried.outcome for tried in tries] == [Outcome.OK] * 3
    assert [tried.kept_state for tried in tries] == [(), ("Carrying.state",), ()]
    for size in (8, 16, 8):
        assert isinstance(measure.time_round(size, 60.0), Timed)


def test_activations_that_are_only_kept_are_no_state() -> None:
    measure, _ = measurer(Drawing())
    assert [measure.try_out(size, 60.0).kept_state for size in (8, 16)] == [(), ()]


def test_weights_that_a_size_has_ruined_are_those_of_the_start_for_the_next() -> None:
    """One step to infinity, and every later size would have no finite loss."""
    measure, made = measurer(Drawing(), rate=1e30)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    assert not measure.try_out(8, 60.0).finite
    for optimizer in made.optimizers:
        optimizer.param_groups[0]["lr"] = 0.0
    measure._first_state.restore()
    after = made.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_weights_of_a_large_model_stay_but_its_attributes_are_put_back(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(first_state, "_MOST_BYTES", 1)
    model = Carrying()
    measure, _ = measurer(model)
    before = model.head.weight.clone()
    assert [measure.try_out(size, 60.0).outcome for size in (8, 16)] == [Outcome.OK] * 2
    assert not torch.equal(before, model.head.weight)


def test_in_the_check_a_hidden_state_is_dropped_before_a_batch_of_another_size() -> None:
    model = Carrying()
    _, made = measurer(model)
    first = FirstState(made)
    first.keep()
    made.on_new_size = first.drop_tensors
    for size in (8, 8, 16, 4):
        made.step(made.load(size, 0))
        assert model.state is not None
        assert model.state[0].shape[1] == size
    made.evaluate(made.load_rows(range(6)))
    assert model.state[0].shape[1] == 6
