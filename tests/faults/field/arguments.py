"""A file that needs an argument of its own when it is imported."""

import argparse

import torch
from torch import nn
from torch.utils.data import TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, required=True)
width = parser.parse_args().width
model = nn.Linear(width, 3)
dataset = TensorDataset(torch.randn(64, width), torch.randint(3, (64,)))
