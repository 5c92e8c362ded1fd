"""A model that returns its loss and its output, as older libraries do."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 3)

    def forward(self, rows, labels):
        output = self.body(rows)
        return nn.functional.cross_entropy(output, labels), output


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, place):
        return {"rows": torch.full((6,), place / 64), "labels": place % 3}


model = Net()
dataset = Rows()
