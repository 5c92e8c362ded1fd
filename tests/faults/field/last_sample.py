"""Batch normalization, and 161 samples: epochs of batches of 32 end with a single one."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
train_dataloader = DataLoader(TensorDataset(torch.randn(161, 6), torch.randint(3, (161,))), batch_size=32)
