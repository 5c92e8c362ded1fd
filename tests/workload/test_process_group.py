"""A single rank, and the loss as a module; several ranks are tested in tests/distributed."""

from __future__ import annotations

import torch
from torch import nn

from autobatch.workload.process_group import BatchLoss, Ranks


def test_a_single_rank_exchanges_nothing() -> None:
    ranks, model = Ranks(), nn.Linear(2, 3)
    assert (ranks.rank, ranks.count) == (0, 1)
    assert ranks.replicated(model) is model
    assert ranks.highest(1.0, -2.0) == (1.0, -2.0)
    ranks.require_alike("Linear, 9 parameters")


def test_the_loss_as_a_module_has_the_parameters_of_the_model() -> None:
    model = nn.Linear(2, 1)
    loss = BatchLoss(model, lambda batch: model(batch).sum())
    assert list(loss.parameters()) == list(model.parameters())
    batch = torch.ones(4, 2)
    assert torch.equal(loss(batch), model(batch).sum())
