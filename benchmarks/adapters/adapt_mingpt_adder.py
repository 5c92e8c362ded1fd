"""karpathy/minGPT's adder as a model file."""

import os
import sys

import torch

sys.path.insert(0, os.getcwd())
from mingpt.model import GPT
from projects.adder.adder import AdditionDataset, get_config

config = get_config()
train_dataset = AdditionDataset(config.data, split="train")
batch_size = 64


def build_model():
    config.model.vocab_size = train_dataset.get_vocab_size()
    config.model.block_size = train_dataset.get_block_size()
    return GPT(config.model)


def make_optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=5e-4, betas=(0.9, 0.95), weight_decay=0.1)


def training_step(model, batch):
    return model(*batch)[1]
