"""pytorch/examples mnist_hogwild as a model file: the training of one of its processes."""

import os
import sys

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

sys.path.insert(0, os.getcwd())
from main import Net

model = Net()
transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
train_loader = DataLoader(datasets.MNIST("../data", transform=transform), batch_size=64, shuffle=True)
loss_fn = torch.nn.functional.nll_loss
epochs = 10


def make_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.5)
