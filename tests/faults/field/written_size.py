"""A state of 24 rows, which is the batch size of the training script."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 8), nn.Linear(8, 3)

    def forward(self, rows):
        return self.head(self.cell(rows, torch.zeros(24, 8)))


model = Net()
dataset = TensorDataset(torch.randn(96, 6), torch.randint(3, (96,)))
batch_size = 24
