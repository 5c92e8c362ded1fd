"""The code that a report offers, run in the frameworks that it is for."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autobatch.records.recommendation import Recommendation
from autobatch.records.workload import StepCount
from autobatch.reports import snippets
from tests.storage.test_codec import SMALL

FOUND = replace(SMALL, learning_rate=0.0014, schedule=(StepCount(name="warmup_steps", steps=7),))
DATA = TensorDataset(torch.randn(64, 4), torch.randint(3, (64,)))


def code(title: str, found: Recommendation = FOUND) -> str:
    return next(one.code for one in snippets.made_for(found) if one.title == title)


def run(source: str, **names: Any) -> dict[str, Any]:
    exec(compile(source, "snippet", "exec"), names)
    return names


def test_pytorch_takes_four_steps_of_two_batches_each() -> None:
    model = nn.Linear(4, 3)
    steps: list[float] = []

    class Counted(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            steps.append(self.param_groups[0]["lr"])
            return super().step(closure)

    names = run(
        code("PyTorch"),
        dataset=DATA,
        model=model,
        optimizer=Counted(model.parameters(), lr=1.0),
        loss_fn=nn.functional.cross_entropy,
    )
    assert isinstance(names["loader"], DataLoader)
    assert names["loader"].batch_size == 8
    assert steps == [0.0014] * 4


def test_parameter_groups_keep_their_ratio() -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD([{"params": model.weight}, {"params": model.bias, "lr": 0.1}], lr=1.0)
    found = replace(SMALL, accumulation_steps=1, global_batch_size=8, learning_rate_factor=1.5)
    run(code("PyTorch", found), dataset=DATA, optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.5, 0.15])


def test_a_shell_sets_what_the_script_is_given(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "autobatch").write_text('#!/bin/sh\necho "measured $@" >&2; echo 8\n')
    for name in ("python", "autobatch"):
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-eu", "-c", code("Shell")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "train.py --batch-size 8 --lr 0.0014 --accumulate 2\n"
    assert done.stderr == "measured probe m.py -q\n"


def test_no_name_of_others_gets_into_code() -> None:
    workload = replace(FOUND.workload, optimizer="Adam(); import os", target="m.py; rm -rf ~")
    for one in snippets.made_for(replace(FOUND, workload=workload)):
        assert "import os" not in one.code
        assert "rm -rf" not in one.code
    assert "YourOptimizer(" in code("Lightning", replace(FOUND, workload=workload))


@pytest.mark.slow
def test_lightning_trains_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def training_step(self, batch: Any, _: int) -> Any:
            assert len(batch[0]) == 8
            self.trainer.should_stop = True
            return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return names["configure_optimizers"](self)

    names |= {"dataset": DATA, "module": Module()}
    exec(compile(code("Lightning"), "snippet", "exec"), names)
    assert names["trainer"].accumulate_grad_batches == 2
    (optimizer,) = names["trainer"].optimizers
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["lr"] == 0.0014


@pytest.mark.slow
def test_transformers_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = run(code("Hugging Face Transformers"))["arguments"]
    assert arguments.per_device_train_batch_size == 8
    assert arguments.gradient_accumulation_steps == 2
    assert arguments.learning_rate == 0.0014
    assert arguments.warmup_steps == 7


@pytest.mark.slow
def test_keras_trains_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    names = run(code("Keras"), model=model, loss=loss, x=DATA.tensors[0].numpy(), y=DATA.tensors[1].numpy())
    assert names["optimizer"].gradient_accumulation_steps == 2
    assert float(names["optimizer"].learning_rate) == pytest.approx(0.0014)
    assert int(names["optimizer"].iterations) > 0


@pytest.mark.parametrize(
    ("framework", "titles"),
    [
        ("", ["PyTorch", "Shell"]),
        ("lightning", ["Lightning", "Shell"]),
        ("transformers", ["Hugging Face Transformers", "Shell"]),
        ("keras", ["Keras", "Shell"]),
        ("another", ["PyTorch", "Shell"]),
    ],
)
def test_the_snippets_of_the_models_framework_come_first(framework: str, titles: list[str]) -> None:
    answer = replace(FOUND, workload=replace(FOUND.workload, framework=framework))
    fitting, others = snippets.for_framework(answer)
    assert [snippet.title for snippet in fitting] == titles
    assert {snippet.title for snippet in (*fitting, *others)} == {
        snippet.title for snippet in snippets.made_for(answer)
    }
