"""pytorch/examples siamese_network as a model file."""

import os
import sys

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, os.getcwd())
from main import APP_MATCHER, SiameseNetwork

model = SiameseNetwork()
train_loader = DataLoader(APP_MATCHER("../data", train=True, download=False), batch_size=64, shuffle=True)
epochs = 14


def make_optimizer(parameters):
    return torch.optim.Adadelta(parameters, lr=1.0)


def training_step(model, batch):
    first, second, targets = batch
    return torch.nn.functional.binary_cross_entropy(model(first, second).squeeze(1), targets)
