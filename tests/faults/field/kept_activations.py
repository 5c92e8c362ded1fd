"""A list of activations for a plot, 2 MB more in every step of 32 samples."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 256), nn.Linear(256, 3)
        self.history = []

    def forward(self, rows):
        hidden = self.body(rows.repeat(64, 1)).relu()
        self.history.append(hidden)
        return self.head(hidden[: len(rows)])


model = Net()
dataset = TensorDataset(torch.randn(512, 64), torch.randint(3, (512,)))
batch_size = 32
