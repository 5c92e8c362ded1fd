"""A layer of complex weights between a Fourier transform and its inverse."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5, dtype=torch.cfloat) / 5)
        self.head = nn.Linear(8, 3)

    def forward(self, signal):
        return self.head(torch.fft.irfft(torch.fft.rfft(signal) @ self.weight, n=8))


model = Spectral()
dataset = TensorDataset(torch.randn(600, 8), torch.randint(3, (600,)))
batch_size = 16
