"""pytorch/examples vae as a model file."""

import os
import sys

import torch

sys.path.insert(0, os.getcwd())
import main
from main import train_loader  # noqa: F401  a name that autobatch looks for

model = main.VAE()
epochs = 10


def make_optimizer(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def training_step(model, batch):
    images, _ = batch
    return main.loss_function(model(images)[0], images, *model(images)[1:])
