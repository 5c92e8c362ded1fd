"""Batches without a DataLoader, gradients accumulated, settings as NAME=VALUE words."""

import sys

import torch
from torch import nn

settings = {"batch_size": 12, "accumulation": 2, "max_iters": 5000}
for word in sys.argv[1:]:
    name, _, value = word.lstrip("-").partition("=")
    settings[name] = int(value)

torch.manual_seed(0)
data = torch.randint(40, (5000,))
model = nn.Sequential(nn.Embedding(40, 16), nn.Linear(16, 40))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def get_batch():
    starts = torch.randint(len(data) - 9, (settings["batch_size"],))
    return torch.stack([data[s : s + 8] for s in starts]), torch.stack([data[s + 1 : s + 9] for s in starts])


for _ in range(settings["max_iters"]):
    for _ in range(settings["accumulation"]):
        inputs, targets = get_batch()
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        (loss / settings["accumulation"]).backward()
    optimizer.step()
    optimizer.zero_grad()
