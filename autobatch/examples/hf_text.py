"""A small BERT that classifies lines of Python by their module of the standard library.

Find its batch size, then train with it:

    autobatch probe autobatch.examples.hf_text
    python -m autobatch.examples.hf_text --batch-size 32
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

try:
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
except ImportError as error:
    raise ImportError(
        "this example needs transformers, which is not installed: pip install transformers accelerate"
    ) from error

batch_size = 32
epochs = 2

MODULES = ("argparse", "ast", "doctest", "inspect", "tarfile", "turtle", "typing", "zipfile")
LONGEST = 120  # characters of a line
SHORTEST = 20  # shorter lines are alike in all modules
VOCABULARY = 128  # ASCII; 0 is the padding
VALIDATION_SHARE = 0.1
SPLIT_SEED = 0

Row = dict[str, Any]


def build_model() -> nn.Module:
    """A BERT of 88,000 parameters with random weights."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LONGEST,
        num_labels=len(MODULES),
    )
    model: nn.Module = BertForSequenceClassification(config)
    return model


def build_dataset() -> list[Row]:
    """Nine tenths of the lines, as rows: input_ids int64 (T,), SHORTEST <= T <= LONGEST, and labels."""
    return _split()[0]


def build_val_dataset() -> list[Row]:
    """The tenth kept for validation, which shares no line with the training data."""
    return _split()[1]


def collate_fn(rows: list[Row]) -> dict[str, Tensor]:
    """A batch padded to its longest line."""
    lines = [row["input_ids"] for row in rows]
    input_ids = nn.utils.rnn.pad_sequence(lines, batch_first=True)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != 0).long(),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-3)


def _split() -> tuple[list[Row], list[Row]]:
    """Training and validation rows, shuffled the same way every time."""
    rows = [
        {"input_ids": torch.tensor([*line.encode("ascii")]), "labels": label}
        for line, label in _lines(Path(os.__file__).parent).items()
    ]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    held = round(VALIDATION_SHARE * len(rows))
    return [rows[index] for index in order[held:]], [rows[index] for index in order[:held]]


def _lines(folder: Path) -> dict[str, int]:
    """Each line of the modules with the number of its module, without lines that two modules share.

    Raises FileNotFoundError where a module has no source file.
    """
    labels_by_line: dict[str, set[int]] = {}
    for label, name in enumerate(MODULES):
        for line in (folder / f"{name}.py").read_text(encoding="utf-8").splitlines():
            line = line.strip()
            if line.isascii() and SHORTEST <= len(line) <= LONGEST:
                labels_by_line.setdefault(line, set()).add(label)
    return {line: labels.pop() for line, labels in labels_by_line.items() if len(labels) == 1}


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the BERT and prints its validation loss.")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--epochs", type=float, default=epochs)
    options = parser.parse_args()

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=256,
            num_train_epochs=options.epochs,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
        )
        trainer = Trainer(
            build_model(),
            args,
            data_collator=collate_fn,
            train_dataset=build_dataset(),
            eval_dataset=build_val_dataset(),
        )
        trainer.train()
        print(f"validation loss {trainer.evaluate()['eval_loss']:.3f}")


if __name__ == "__main__":
    main()
