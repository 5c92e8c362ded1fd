"""A model of doubles on NumPy's doubles."""

import numpy
from torch import nn

model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
loss_fn = nn.MSELoss()
generator = numpy.random.default_rng(0)
dataset = (generator.normal(size=(80, 5)), generator.normal(size=(80, 1)))
