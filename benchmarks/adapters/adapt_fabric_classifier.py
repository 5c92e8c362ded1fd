"""Lightning Fabric's image classifier as a model file."""

import os
import sys

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

sys.path.insert(0, os.getcwd())
from train_fabric import DATASETS_PATH, Net

model = Net()
transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
train_loader = DataLoader(datasets.MNIST(DATASETS_PATH, transform=transform), batch_size=64, shuffle=True)
loss_fn = torch.nn.functional.nll_loss
epochs = 14


def make_optimizer(parameters):
    return torch.optim.Adadelta(parameters, lr=1.0)
