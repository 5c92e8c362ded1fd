"""A training script as a user writes it: the character transformer of the examples, in bfloat16."""

from __future__ import annotations

import argparse

import torch
from on_gpu_parts import device
from torch.utils.data import DataLoader, Subset

from autobatch.examples import charlm

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    where = device.prepare()
    torch.manual_seed(0)
    every = charlm.build_dataset()
    windows = Subset(every, range(min(len(every), 8 * device.scale().training_samples)))
    loader = DataLoader(windows, options.batch_size, shuffle=True)
    model = charlm.build_model().to(where)
    optimizer = charlm.make_optimizer(model.parameters())
    for epoch in range(options.epochs):
        for codes, following in loader:
            optimizer.zero_grad()
            with torch.autocast(where, torch.bfloat16):
                loss = charlm.loss_fn(model(codes.to(where)), following.to(where))
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
