"""Four answers to each prompt: advantages are relative to the mean of their group."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

model = nn.Linear(6, 3)
dataset = TensorDataset(torch.randn(128, 6), torch.rand(128))
batch_size = 16


def training_step(model, batch):
    rewards = batch[1].view(-1, 4)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten()
    return -(model(batch[0]).log_softmax(1)[:, 0] * advantages).mean()
