"""The same kind of model as a LightningModule: its validation step gives no loss."""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, place):
        return torch.rand(1, 8, 8), {"points": torch.rand(1 + place % 2, 2)}


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 2, 3)

    def forward(self, images, targets=None):
        points = [self.head(image[None]).mean((0, 2, 3)) for image in images]
        if not self.training:
            return [{"points": point} for point in points]
        distances = [(p - t["points"]).abs().mean() for p, t in zip(points, targets, strict=True)]
        return {"distance": torch.stack(distances).mean()}

    def training_step(self, batch, batch_idx):
        return sum(self(*batch).values())

    def validation_step(self, batch, batch_idx):
        self.log("boxes", float(len(self(batch[0]))))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def collate(samples):
    return tuple(zip(*samples, strict=True))


model = Module()
train_dataloader = DataLoader(Pictures(), batch_size=4, collate_fn=collate)
