"""A generator and a discriminator with an optimizer each, in a step."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.judge = nn.Linear(4, 6), nn.Linear(6, 1)


model = Pair()
dataset = TensorDataset(torch.randn(512, 6))
batch_size = 32


def make_optimizers(model):
    return [torch.optim.Adam(part.parameters(), lr=0.001) for part in (model.generator, model.judge)]


def step(model, optimizers, batch):
    of_generator, of_judge = optimizers
    made = model.generator(torch.randn(len(batch[0]), 4))
    of_judge.zero_grad()
    (
        nn.functional.softplus(model.judge(made.detach())) + nn.functional.softplus(-model.judge(batch[0]))
    ).mean().backward()
    of_judge.step()
    of_generator.zero_grad()
    nn.functional.softplus(-model.judge(made)).mean().backward()
    of_generator.step()
