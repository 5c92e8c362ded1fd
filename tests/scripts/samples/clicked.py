"""Options by click, two optimizers, loading in workers."""

import click
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@click.command()
@click.option("-b", "--batch-size", default=16)
@click.option("--num-epochs", default=500)
@click.option("--workers", default=1)
def main(batch_size, num_epochs, workers):
    data = TensorDataset(torch.randn(2048, 6))
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, persistent_workers=True)
    first, second = nn.Linear(6, 6), nn.Linear(6, 1)
    optimizers = [torch.optim.Adam(first.parameters(), 1e-3), torch.optim.SGD(second.parameters(), 0.1)]
    for _ in range(num_epochs):
        for (inputs,) in loader:
            loss = second(first(inputs)).square().sum()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()


if __name__ == "__main__":
    main()
