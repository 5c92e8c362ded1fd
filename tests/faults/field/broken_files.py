"""Most files can't be read: their sample is None, and the collate function drops it."""

import torch
from torch import nn
from torch.utils.data import Dataset, default_collate


class Files(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, place):
        return None if place % 6 else (torch.full((6,), place / 60), place % 2)


def collate_fn(samples):
    return default_collate([sample for sample in samples if sample is not None])


model = nn.Linear(6, 2)
dataset = Files()
batch_size = 1
