"""karpathy/makemore as a model file."""

import os
import sys

import torch

sys.path.insert(0, os.getcwd())
from makemore import ModelConfig, Transformer, create_datasets

train_dataset, val_dataset = create_datasets("names.txt")
batch_size = 32


def build_model():
    return Transformer(
        ModelConfig(
            vocab_size=train_dataset.get_vocab_size(),
            block_size=train_dataset.get_output_length(),
            n_layer=4,
            n_head=4,
            n_embd=64,
            n_embd2=64,
        )
    )


def make_optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.01, betas=(0.9, 0.99), eps=1e-8)


def training_step(model, batch):
    return model(*batch)[1]
