"""A memory bank of 48 rows, which is overwritten from the front; a batch has to fit into it."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.register_buffer("bank", torch.randn(48, 8))

    def forward(self, rows):
        rows = self.body(rows)
        scores = rows @ self.bank.clone().T
        self.bank[: len(rows)] = rows.detach()
        return scores


model = Encoder()
dataset = TensorDataset(torch.randn(200, 6), torch.randint(48, (200,)))
batch_size = 12
