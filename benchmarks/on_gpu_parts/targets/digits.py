"""The CNN of the examples, on scikit-learn's digits."""

from __future__ import annotations

from on_gpu_parts import device

from autobatch.examples.digits_cnn import (
    batch_size,
    build_dataset,
    build_model,
    build_val_dataset,
    epochs,
    loss_fn,
    make_optimizer,
)

device.prepare()

__all__ = [
    "batch_size",
    "build_dataset",
    "build_model",
    "build_val_dataset",
    "epochs",
    "loss_fn",
    "make_optimizer",
]
