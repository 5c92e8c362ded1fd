"""Samples of many lengths: memory is that of the longest, in real workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from autobatch.api import probe
from autobatch.engines.messages import Recipe
from autobatch.measurement.climb import Climb
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve, LimitedBy
from tests.accelerator import built_library, missing, model_preamble
from tests.contract.test_ceiling import MIB, engine
from tests.shared_worker import SharedWorker

LENGTHS = 300
LONGEST = 400

# One of 300 texts is long: whether a random batch of eight has it is a matter of luck, 1 in 40.
MODEL = """
import torch
from torch import nn

LENGTHS = {lengths}
dataset = [{{"input_ids": [i % 50] * length, "labels": i % 2}} for i, length in enumerate(LENGTHS)]

def collate_fn(samples):
    longest = max(len(sample["input_ids"]) for sample in samples)
    rows = [sample["input_ids"] + [0] * (longest - len(sample["input_ids"])) for sample in samples]
    return {{"input_ids": torch.tensor(rows), "labels": torch.tensor([s["labels"] for s in samples])}}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 64)
        self.head = nn.Linear(64, 2)

    def forward(self, input_ids):
        return self.head(torch.relu(self.embedding(input_ids)).mean(1))

def build_model():
    return Net()

def make_optimizer(params):
    return torch.optim.SGD(params, lr=0.01)
"""


def curve(folder: Path, name: str, lengths: str) -> Curve:
    target = folder / f"{name}.py"
    target.write_text(model_preamble(12 * MIB) + MODEL.format(lengths=lengths))
    limits = Limits(ceiling=True, budget_seconds=600.0)
    with engine(target, "testdev", limits) as opened:
        return Climb(opened, limits).run()


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.slow
def test_one_long_sample_alone_decides_on_memory(tmp_path: Path) -> None:
    """What a training meets once an epoch: Lightning-AI/pytorch-lightning 20447, lhotse-speech/lhotse 231,
    OpenNMT/OpenNMT-tf 806, ultralytics/ultralytics 17514.

    pytorch/text 250; facebookresearch/fairseq 4027; speechbrain/speechbrain 2170: padding counts.
    """
    built_library()
    mixed = curve(tmp_path, "mixed", f"[20] * {LENGTHS // 2} + [{LONGEST}] + [20] * {LENGTHS // 2 - 1}")
    all_long = curve(tmp_path, "all_long", f"[{LONGEST}] * {LENGTHS}")
    all_short = curve(tmp_path, "all_short", f"[20] * {LENGTHS}")

    assert mixed.ceiling.limited_by is LimitedBy.MEMORY
    assert mixed.ceiling.verified
    assert mixed.ceiling.batch_size == all_long.ceiling.batch_size
    assert all_short.ceiling.limited_by is LimitedBy.DATASET
    sizes = mixed.workload.sizes
    assert sizes is not None
    assert sizes.vary
    assert (sizes.scanned, sizes.smallest, sizes.largest) == (LENGTHS, 21, LONGEST + 1)
    assert sizes.tokens is not None
    assert (sizes.tokens.median, sizes.tokens.longest) == (20, LONGEST)
    assert all_long.workload.sizes is not None
    assert not all_long.workload.sizes.vary


def test_tokens_a_second_of_texts_of_one_length(shared_worker: SharedWorker, tmp_path: Path) -> None:
    lengths = "[16] * 64"
    (tmp_path / "texts.py").write_text(MODEL.format(lengths=lengths))
    found = probe(
        Recipe(target=str(tmp_path / "texts.py")),
        Limits(max_batch=8, budget_seconds=5, check=False),
        device="cpu",
        make_engine=shared_worker.make_engine,
    )
    assert found.workload.sizes is not None
    assert not found.workload.sizes.vary
    assert found.chosen.samples_per_second is not None
    assert found.tokens_per_second == pytest.approx(16 * found.chosen.samples_per_second)
