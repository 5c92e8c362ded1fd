"""Attention with relative positions that the first forward pass computes and keeps."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.positions = None

    def forward(self, rows):
        if self.positions is None:
            places = torch.arange(rows.shape[1], device=rows.device, dtype=torch.float32)
            self.positions = -(places[:, None] - places).abs()
        weights = (self.scores(rows) @ rows.transpose(1, 2) + self.positions).softmax(-1)
        return self.head((weights @ rows).mean(1))


model = Net()
dataset = TensorDataset(torch.randn(640, 16, 8), torch.randint(3, (640,)))
batch_size = 16
