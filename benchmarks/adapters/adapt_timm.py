"""timm's train.py as a model file."""

import os
import sys

import torch

sys.path.insert(0, os.getcwd())
from timm.data import create_dataset, create_loader
from timm.models import create_model

train_loader = create_loader(
    create_dataset("", root="../imagefolder", split="train"),
    input_size=(3, 64, 64),
    batch_size=32,
    is_training=True,
    num_workers=1,
    use_prefetcher=False,
    device=torch.device("cpu"),
)
loss_fn = torch.nn.functional.cross_entropy
epochs = 10


def build_model():
    return create_model("resnet10t", num_classes=10)


def make_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.0125, momentum=0.9, weight_decay=2e-5, nesterov=True)
