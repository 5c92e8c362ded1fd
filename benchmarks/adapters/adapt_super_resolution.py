"""pytorch/examples super_resolution as a model file."""

import os
import sys

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, os.getcwd())
from data import get_training_set
from model import Net

model = Net(upscale_factor=3)
train_loader = DataLoader(get_training_set(3), num_workers=4, batch_size=64, shuffle=True)
loss_fn = torch.nn.functional.mse_loss
epochs = 2


def make_optimizer(parameters):
    return torch.optim.Adam(parameters, lr=0.01)
