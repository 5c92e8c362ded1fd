"""A training as in many tutorials: argparse, DataLoaders, a checkpoint and a log file."""

import argparse
import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--test-batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--drop-last", action="store_true")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--weights", default="")
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(options.samples, 20)
    y = (x @ torch.randn(20) + 0.5 * torch.randn(options.samples) > 0).long()
    train = DataLoader(
        TensorDataset(x, y),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=options.drop_last,
        num_workers=options.workers,
    )
    test = DataLoader(TensorDataset(x[:256], y[:256]), batch_size=options.test_batch_size)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)
    os.makedirs("runs/first", exist_ok=True)
    for epoch in range(options.epochs):
        model.train()
        for inputs, targets in train:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum((model(inputs).argmax(1) == targets).sum() for inputs, targets in test)
        with open("log.txt", "a") as log:
            log.write(f"{epoch} {right}\n")
        torch.save(model, "model.pt")
        model.load_state_dict(torch.load("model.pt", weights_only=False).state_dict())
    if options.weights:
        torch.save(model.state_dict(), options.weights)
    print("done")


if __name__ == "__main__":
    main()
