"""An anchor, a positive and two negatives in a row: the batch holds whole quadruples."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

model = nn.Linear(8, 4)
dataset = TensorDataset(torch.randn(400, 8))
batch_size = 16


def training_step(model, batch):
    anchor, positive, first, second = model(batch[0]).view(-1, 4, 4).unbind(1)
    distances = [(anchor - other).square().sum(1) for other in (positive, first, second)]
    return nn.functional.softplus(2 * distances[0] - distances[1] - distances[2]).mean()
