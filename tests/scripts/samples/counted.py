"""Epochs that count their steps, and evaluations that switch gradients off in their loop, as trainers do."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_loader(samples, size):
    return DataLoader(TensorDataset(torch.randn(samples, 10), torch.randint(2, (samples,))), batch_size=size)


def evaluate(model, loader):
    model.eval()
    right = 0
    for inputs, targets in loader:
        with torch.no_grad():
            right += (model(inputs).argmax(1) == targets).sum()
    model.train()
    return right


def main():
    torch.manual_seed(0)
    train, valid = make_loader(128, 16), make_loader(256, 64)
    model = nn.Linear(10, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    evaluate(model, valid)
    for _ in range(1000):
        batches = iter(train)
        for _ in range(len(train)):
            inputs, targets = next(batches)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        evaluate(model, valid)
        evaluate(model, train)


main()
