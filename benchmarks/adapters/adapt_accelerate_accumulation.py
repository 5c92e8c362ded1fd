"""accelerate's gradient_accumulation as a model file: the samples of its two micro batches at once."""

import os
import sys

import torch
from accelerate import Accelerator
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, os.path.join(os.getcwd(), "..", "huggingface+accelerate", "examples", "by_feature"))
from gradient_accumulation import get_dataloaders

train_dataloader, val_dataloader = get_dataloaders(Accelerator(cpu=True), 32)
epochs = 3


def build_model():
    return AutoModelForSequenceClassification.from_pretrained("bert-base-cased", return_dict=True)


def make_optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=2e-5)


def training_step(model, batch):
    return model(**batch).loss
