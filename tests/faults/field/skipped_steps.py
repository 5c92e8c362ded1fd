"""A training step that returns None for a batch without a pair of one class."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

model = nn.Linear(6, 4)
dataset = TensorDataset(torch.randn(60, 6), torch.arange(60) % 3)
batch_size = 20


def training_step(model, batch):
    rows, labels = model(batch[0]), batch[1]
    same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    if not same.any():
        return None
    return torch.cdist(rows, rows)[same].mean()
