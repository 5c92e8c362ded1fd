"""karpathy/nanoGPT as a model file: random windows of the text as samples."""

import os
import sys

import numpy
import torch
from torch.utils.data import Dataset

sys.path.insert(0, os.getcwd())
from model import GPT, GPTConfig

BLOCK = 64
batch_size = 12


class Windows(Dataset):
    def __init__(self):
        self.codes = numpy.fromfile("data/shakespeare_char/train.bin", dtype=numpy.uint16).astype(numpy.int64)

    def __len__(self):
        return len(self.codes) // BLOCK

    def __getitem__(self, place):
        window = torch.from_numpy(self.codes[place * BLOCK : (place + 1) * BLOCK + 1])
        return window[:BLOCK], window[1 : BLOCK + 1]


dataset = Windows()


def build_model():
    vocabulary = int(dataset.codes.max()) + 1
    return GPT(
        GPTConfig(block_size=BLOCK, vocab_size=vocabulary, n_layer=2, n_head=2, n_embd=64, dropout=0.2)
    )


def make_optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99))


def training_step(model, batch):
    return model(*batch)[1]
