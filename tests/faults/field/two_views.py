"""NT-Xent: each row has two views, and all other rows of the batch are negatives."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

model = nn.Linear(12, 8)
dataset = TensorDataset(torch.randn(256, 12))
batch_size = 16
learning_rate = 0.01


def training_step(model, batch):
    views = batch[0] + 0.1 * torch.randn(2, *batch[0].shape)
    rows = nn.functional.normalize(model(views.flatten(0, 1)), dim=1)
    scores = (rows @ rows.T / 0.2).fill_diagonal_(-torch.inf)
    half = len(batch[0])
    return nn.functional.cross_entropy(scores, torch.arange(2 * half).roll(half))
