"""A model of key points: losses by name in training mode, a list of points in evaluation mode."""

import torch
from torch import nn
from torch.utils.data import Dataset


class Pictures(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, place):
        return torch.rand(1, 8 + place % 3, 8), {"points": torch.rand(1 + place % 2, 2)}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 2, 3)

    def forward(self, images, targets=None):
        points = [self.head(image[None]).mean((0, 2, 3)) for image in images]
        if not self.training:
            return [{"points": point} for point in points]
        distances = [(p - t["points"]).abs().mean() for p, t in zip(points, targets, strict=True)]
        return {"distance": torch.stack(distances).mean()}


def collate_fn(samples):
    return tuple(zip(*samples, strict=True))


model = Net()
dataset = Pictures()


def training_step(model, batch):
    return sum(model(*batch).values())
