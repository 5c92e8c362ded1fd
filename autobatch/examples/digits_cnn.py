"""A small CNN on scikit-learn's 1,797 handwritten digits, 8x8 pixels each.

Find its batch size, then train with it:

    autobatch probe autobatch.examples.digits_cnn
    python -m autobatch.examples.digits_cnn --batch-size 32
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise ImportError(
        "this example needs scikit-learn, which is not installed: pip install scikit-learn"
    ) from error

batch_size = 32
epochs = 10

VALIDATION_SAMPLES = 360
SPLIT_SEED = 0


def build_model() -> nn.Module:
    """A CNN of 38,000 parameters: images (N, 1, 8, 8) in, logits (N, 10) out."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def build_dataset() -> TensorDataset:
    """The 1,437 training samples: image float32 (1, 8, 8) from 0 to 1, digit int64."""
    return _split()[0]


def build_val_dataset() -> TensorDataset:
    """The 360 samples kept for validation."""
    return _split()[1]


def loss_fn(logits: Tensor, digits: Tensor) -> Tensor:
    """The mean cross-entropy over the batch."""
    return F.cross_entropy(logits, digits)


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=2e-3)


def _split() -> tuple[TensorDataset, TensorDataset]:
    """Training and validation samples, in the same random order every time."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32).div(16).view(-1, 1, 8, 8)
    labels = torch.as_tensor(digits, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    val, train = order[:VALIDATION_SAMPLES], order[VALIDATION_SAMPLES:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[val], labels[val])


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the CNN and prints its validation loss.")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--epochs", type=int, default=epochs)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = build_model()
    optimizer = make_optimizer(model.parameters())
    loader = DataLoader(build_dataset(), batch_size=options.batch_size, shuffle=True)
    images, digits = build_val_dataset().tensors
    for epoch in range(1, options.epochs + 1):
        model.train()
        for batch, targets in loader:
            optimizer.zero_grad()
            loss_fn(model(batch), targets).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = model(images)
        accuracy = (logits.argmax(dim=1) == digits).float().mean().item()
        loss = loss_fn(logits, digits).item()
        print(f"epoch {epoch}: validation loss {loss:.3f}, accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
