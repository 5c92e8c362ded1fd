"""SparseAdam for an embedding with sparse gradients, and Adam for the layer above it."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        self.items, self.head = nn.Embedding(50, 8, sparse=True), nn.Linear(8, 1)

    def forward(self, items):
        return self.head(self.items(items).mean(1))


model = Recommender()
loss_fn = nn.MSELoss()
dataset = TensorDataset(torch.randint(50, (800, 4)), torch.randn(800, 1))
batch_size = 16


def make_optimizers(model):
    return [
        torch.optim.SparseAdam([model.items.weight], lr=0.01),
        torch.optim.Adam(model.head.parameters(), lr=0.01),
    ]
