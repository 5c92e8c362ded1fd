"""Trainings that have no batch size to tune, by the name in the first argument."""

import sys
import time

kind = sys.argv[1]
if kind == "no_torch":
    print("nothing to see")
    sys.exit()

import torch  # noqa: E402
from torch import nn  # noqa: E402

x, y = torch.randn(512, 4), torch.randn(512, 1)
model = nn.Linear(4, 1)


def loss_of(inputs, targets):
    return nn.functional.mse_loss(model(inputs), targets)


if kind == "lbfgs":
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        return loss

    for _ in range(50):
        optimizer.step(closure)
elif kind == "own_updates":
    for _ in range(200):
        loss = loss_of(x, y)
        model.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            parameter.data.add_(parameter.grad, alpha=-0.01)
elif kind == "no_steps":
    print(float(loss_of(x, y)))
elif kind == "crash":
    raise ValueError("the data are not there")
elif kind == "hang":
    time.sleep(600)
else:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    steps = 5 if kind == "short" else 100_000
    for step in range(steps):
        count = 30 + step % 7
        loss = (
            loss_of(x, y) if kind == "full_batch" else loss_of(torch.randn(count, 4), torch.randn(count, 1))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
