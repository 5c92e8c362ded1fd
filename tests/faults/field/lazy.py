"""Lazy layers, which get their widths from the first batch."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

model = nn.Sequential(nn.LazyLinear(10), nn.ReLU(), nn.LazyLinear(3))
dataset = TensorDataset(torch.randn(64, 7), torch.randint(3, (64,)))
