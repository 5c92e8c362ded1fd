"""The transformers example builds what it says, splits it without overlap, and learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from autobatch.examples import hf_text

ROOT = Path(__file__).resolve().parents[2]


def test_the_lines_are_of_many_lengths_and_stand_in_one_part_and_one_module_only():
    train, val = hf_text.build_dataset(), hf_text.build_val_dataset()
    assert len(val) == round(0.1 * (len(train) + len(val)))
    lines = [tuple(row["input_ids"].tolist()) for row in (*train, *val)]
    assert len(set(lines)) == len(lines)
    assert min(map(len, lines)) == hf_text.SHORTEST
    assert 90 < max(map(len, lines)) <= hf_text.LONGEST
    assert min(map(min, lines)) > 0
    assert {row["labels"] for row in train} == set(range(len(hf_text.MODULES)))


def test_a_batch_is_padded_to_its_longest_line_and_the_padding_is_masked():
    rows = hf_text.build_dataset()[:5]
    batch = hf_text.collate_fn(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (5, longest)
    assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]
    assert batch["labels"].tolist() == [row["labels"] for row in rows]


def test_the_loss_falls():
    torch.manual_seed(0)
    model = hf_text.build_model()
    optimizer = hf_text.make_optimizer(model.parameters())
    losses = []
    rows = hf_text.build_dataset()[:640]
    for batch in DataLoader(rows, batch_size=32, collate_fn=hf_text.collate_fn):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.slow
def test_it_runs_as_a_program(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-m", "autobatch.examples.hf_text", "--batch-size", "64", "--epochs", "0.05"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    assert "validation loss " in ended.stdout
