"""Two loaders in a step, as of labelled and unlabelled samples: a flag sets the sizes of both."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=8)
options = parser.parse_args()
torch.manual_seed(0)
labelled = TensorDataset(torch.randn(512, 10), torch.randint(2, (512,)))
unlabelled = TensorDataset(torch.randn(2048, 10))
model = nn.Linear(10, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(1000):
    loaders = (
        DataLoader(labelled, batch_size=options.batch_size, shuffle=True),
        DataLoader(unlabelled, batch_size=4 * options.batch_size, shuffle=True),
    )
    for (inputs, targets), (others,) in zip(*loaders, strict=False):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets) + 0.01 * model(others).square().mean()
        loss.backward()
        optimizer.step()
