"""A training in a process that was spawned after the options were read."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(rank, options):
    data = TensorDataset(torch.randn(2048, 6), torch.randn(2048, 1))
    loader = DataLoader(data, batch_size=options.batch_size, shuffle=True)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(1000):
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=16)
    torch.multiprocessing.spawn(train, args=(parser.parse_args(),))
