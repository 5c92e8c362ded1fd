"""A small transformer that learns to write Python, character by character, from the standard library.

Find its batch size, then train with it:

    autobatch probe autobatch.examples.charlm
    python -m autobatch.examples.charlm --batch-size 32
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

batch_size = 32
epochs = 2

CONTEXT = 96  # characters that the model sees
CHARACTERS = 500_000  # of text that is read
VOCABULARY = 128  # ASCII
VALIDATION_SHARE = 0.1
SPLIT_SEED = 0


class CharTransformer(nn.Module):
    """Predict each next character: codes int64 (N, T) in, logits (N, T, VOCABULARY) out; T <= CONTEXT."""

    def __init__(self, width: int = 48, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(CONTEXT, width)
        block = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, codes: Tensor) -> Tensor:
        length = codes.shape[1]
        hidden = self.characters(codes) + self.positions(torch.arange(length, device=codes.device))
        past_only = nn.Transformer.generate_square_subsequent_mask(length, device=codes.device)
        logits: Tensor = self.head(self.blocks(hidden, mask=past_only, is_causal=True))
        return logits


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of text: CONTEXT characters, and for each the next character."""

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.codes[index].long()
        return window[:-1], window[1:]


def build_model() -> nn.Module:
    """A transformer of 74,000 parameters."""
    return CharTransformer()


def build_dataset() -> Windows:
    """Nine tenths of the windows."""
    return _split()[0]


def build_val_dataset() -> Windows:
    """The tenth kept for validation, which shares no window with the training data."""
    return _split()[1]


def loss_fn(logits: Tensor, following: Tensor) -> Tensor:
    """The mean cross-entropy over all characters of the batch."""
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=2e-3)


def _split() -> tuple[Windows, Windows]:
    """Training and validation windows, cut without overlap and shuffled the same way every time."""
    text = bytearray(_read_sources(Path(os.__file__).parent, CHARACTERS))
    codes = torch.frombuffer(text, dtype=torch.uint8)
    codes = codes[: len(codes) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    codes = codes.unique(dim=0)  # a passage of two files must not be in both parts
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held = round(VALIDATION_SHARE * len(codes))
    return Windows(codes[order[held:]]), Windows(codes[order[:held]])


def _read_sources(folder: Path, characters: int) -> bytes:
    """The first `characters` of the folder's modules in the order of their names, as ASCII.

    Skips unreadable files. Raises FileNotFoundError where there is too little text, as in a Python that
    keeps its standard library in an archive.
    """
    text = b""
    for path in sorted(folder.glob("*.py")):
        if len(text) >= characters:
            break
        try:
            text += path.read_text(encoding="utf-8").encode("ascii", errors="replace")
        except (OSError, UnicodeDecodeError):
            continue
    if len(text) < 20 * (CONTEXT + 1):
        raise FileNotFoundError(f"this Python has no sources of its standard library in {folder}")
    return text[:characters]


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the transformer and prints its validation loss.")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--epochs", type=int, default=epochs)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = build_model()
    optimizer = make_optimizer(model.parameters())
    loader = DataLoader(build_dataset(), batch_size=options.batch_size, shuffle=True)
    val_dataset = build_val_dataset()
    val_loader = DataLoader(val_dataset, batch_size=options.batch_size)
    for epoch in range(1, options.epochs + 1):
        model.train()
        for codes, following in loader:
            optimizer.zero_grad()
            loss_fn(model(codes), following).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            total = sum(
                loss_fn(model(codes), following).item() * len(codes) for codes, following in val_loader
            )
        print(f"epoch {epoch}: validation loss {total / len(val_dataset):.3f} per character")


if __name__ == "__main__":
    main()
