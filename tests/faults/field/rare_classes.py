"""A weighted sampler that draws 40 samples an epoch, rare classes more often, and drops the last batch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

labels = (torch.rand(500) < 0.1).long()
model = nn.Linear(6, 2)
weights = torch.where(labels == 1, 9.0, 1.0)
train_dataloader = DataLoader(
    TensorDataset(torch.randn(500, 6), labels),
    batch_size=10,
    sampler=WeightedRandomSampler(weights, 40),
    drop_last=True,
)
