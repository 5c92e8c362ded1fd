"""Batches of sequences of similar lengths, up to 64 tokens in each."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset


def length(place):
    return 4 + place % 13


class Sequences(Dataset):
    def __len__(self):
        return 120

    def __getitem__(self, place):
        return torch.full((length(place),), place % 9), place % 2


class TokenBuckets:
    def __iter__(self):
        bucket = []
        for place in sorted(range(120), key=length):
            if (len(bucket) + 1) * length(place) > 64:
                yield bucket
                bucket = []
            bucket.append(place)
        yield bucket


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.EmbeddingBag(9, 8), nn.Linear(8, 2)

    def forward(self, words):
        return self.head(self.embedding(words))


def collate(samples):
    words, labels = zip(*samples, strict=True)
    return pad_sequence(words, batch_first=True), torch.tensor(labels)


model = Net()
train_dataloader = DataLoader(Sequences(), batch_sampler=TokenBuckets(), collate_fn=collate)
