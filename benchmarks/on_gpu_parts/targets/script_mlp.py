"""A training script as a user writes it: an MLP on two moons of noise."""

from __future__ import annotations

import argparse

import torch
from on_gpu_parts import device
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    where = device.prepare()
    torch.manual_seed(0)
    inputs = torch.randn(8192 if device.is_gpu() else 256, 32)
    loader = DataLoader(
        TensorDataset(inputs, (inputs.norm(dim=1) > 5.6).long()), options.batch_size, shuffle=True
    )
    model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 2)).to(where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(options.epochs):
        for rows, labels in loader:
            loss = nn.functional.cross_entropy(model(rows.to(where)), labels.to(where))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
