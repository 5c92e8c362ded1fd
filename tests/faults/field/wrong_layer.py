"""A model that fails at every size: its layers don't fit together."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

model = nn.Sequential(nn.Linear(6, 8), nn.Linear(9, 3))
dataset = TensorDataset(torch.randn(64, 6), torch.randint(3, (64,)))
