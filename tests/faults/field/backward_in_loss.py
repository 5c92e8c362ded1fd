"""A training step that goes back through its loss by itself."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


def training_step(model, batch):
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    return loss


model = nn.Linear(6, 3)
dataset = TensorDataset(torch.randn(64, 6), torch.randint(3, (64,)))
