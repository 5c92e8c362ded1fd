"""A short training of the character transformer: the first windows of the example."""

from __future__ import annotations

from on_gpu_parts import device
from torch.utils.data import TensorDataset

from autobatch.examples import charlm
from autobatch.examples.charlm import build_model, loss_fn, make_optimizer

device.prepare()
batch_size = 32
epochs = device.scale().epochs
LEARNING_RATE = 2e-3


def _tensors(windows: charlm.Windows, samples: int) -> TensorDataset:
    codes = windows.codes[:samples].long()
    return TensorDataset(codes[:, :-1].contiguous(), codes[:, 1:].contiguous())


dataset = _tensors(charlm.build_dataset(), device.scale().training_samples)
val_dataset = _tensors(charlm.build_val_dataset(), 256)

__all__ = [
    "LEARNING_RATE",
    "batch_size",
    "build_model",
    "dataset",
    "epochs",
    "loss_fn",
    "make_optimizer",
    "val_dataset",
]
