"""The real Trainer and real models with random weights: what is measured, set, and checked."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cloudpickle
import numpy
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import IterableDataset
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

import autobatch
from autobatch import Limits, Recommendation
from autobatch.examples import hf_text
from autobatch.integrations import accumulation, transformers
from autobatch.integrations.transformers import tune_training_arguments, with_batch_size
from autobatch.records.errors import UsageError
from autobatch.records.limits import Precision
from tests.strategies import recommendations

QUICK = Limits(max_batch=4, budget_seconds=30, check=False)


class Columns:
    """Rows as `datasets.Dataset` gives them: dicts, several at once, a column of text among them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = [3 + (index + place) % 40 for place in range(6)]
        return {"text": f"line {index}", "input_ids": ids, "label": index % 3}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


def bert(kind: type = BertForSequenceClassification) -> nn.Module:
    torch.manual_seed(0)
    return kind(
        BertConfig(
            vocab_size=128,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=128,
            num_labels=2 if kind is BertForQuestionAnswering else len(hf_text.MODULES),
        )
    )


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=16, n_layer=1, n_head=2, n_positions=128))


def arguments(folder: Path, **given: Any) -> TrainingArguments:
    common = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    return TrainingArguments(output_dir=str(folder / "out"), **{**common, **given})


def text_for_gpt2(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Lines of different lengths to continue; what fills them up is not counted."""
    batch = hf_text.collate_fn(rows)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return {**batch, "labels": labels}


def random_states() -> list[Any]:
    return [random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


@dataclass
class Tuned:
    args: TrainingArguments
    kept: TrainingArguments
    new: TrainingArguments
    found: Recommendation
    model: nn.Module
    untouched: dict[str, tuple[Any, Any]]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """One search that has to accumulate: 16 samples a step, of which 4 may be tried at once."""
    folder = tmp_path_factory.mktemp("tuned")
    args = arguments(folder, per_device_train_batch_size=8, warmup_steps=50, learning_rate=1e-3)
    kept = copy.deepcopy(args)
    model = bert().eval()
    rows = hf_text.build_dataset()[:128]

    def states() -> dict[str, Any]:
        weights = io.BytesIO()
        torch.save(model.state_dict(), weights)
        return {
            "weights": weights.getvalue(),
            "config": model.config.to_dict(),
            "flags": [module.training for module in model.modules()],
            "gradients": [p.grad for p in model.parameters()],
            "random": random_states(),
            "accelerate": (dict(PartialState._shared_state), dict(AcceleratorState._shared_state)),
            "files": sorted(os.listdir(folder)),
        }

    before = states()
    new, found = tune_training_arguments(
        args,
        model,
        rows,
        data_collator=hf_text.collate_fn,
        learning_rate=True,
        limits=replace(QUICK, global_batch=16),
    )
    after = states()
    return Tuned(args, kept, new, found, model, {name: (before[name], after[name]) for name in before})


def test_the_arguments_are_a_copy_with_the_measured_size(tuned: Tuned):
    assert tuned.args == tuned.kept
    assert tuned.new is not tuned.args
    size, steps = tuned.new.per_device_train_batch_size, tuned.new.gradient_accumulation_steps
    assert (size, steps) == (tuned.found.batch_size, tuned.found.accumulation_steps)
    assert size <= 4
    assert size * steps == 16
    # The present size is 8: the same samples to warm up on are half as many steps.
    assert tuned.found.workload.batch_size == 8
    assert tuned.new.warmup_steps == 25
    old, new = tuned.args.to_dict(), tuned.new.to_dict()
    changed = {name for name in new if new[name] != old[name]}
    assert changed == {"per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps"}


def test_the_workload_is_what_the_trainer_would_train(tuned: Tuned):
    workload = tuned.found.workload
    assert workload.optimizer == "AdamW"
    assert workload.learning_rate == 1e-3
    assert [(one.name, one.value) for one in workload.decays] == [("beta2", 0.999)]
    assert workload.loss == "the model's own"
    assert workload.epochs == 3
    assert workload.sizes is not None
    assert workload.sizes.vary


@pytest.mark.skipif(
    int(version("transformers").split(".")[0]) < 5, reason="transformers 4 averages it, or has no cure"
)
def test_accumulation_that_multiplies_the_gradient_is_told_with_its_cure(tuned: Tuned):
    steps = tuned.found.accumulation_steps
    (warning,) = [one for one in tuned.found.warnings if "accumulated" in one]
    assert f"BertForSequenceClassification the gradient of {min(steps, 4)} batches" in warning
    assert f"is {min(steps, 4)}.00 times that of one batch" in warning
    assert warning.endswith("it is 1.00 times that")
    assert "`trainer.model_accepts_loss_kwargs = False`" in warning


def test_the_process_stays_as_it_was(tuned: Tuned):
    for name, (before, after) in tuned.untouched.items():
        assert before == after, name


def test_a_trainer_trains_with_them(tuned: Tuned):
    sizes: list[int] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sizes.append(len(rows))
        return hf_text.collate_fn(rows)

    args = copy.deepcopy(tuned.new)
    args.max_steps = 2
    rows = hf_text.build_dataset()[:128]
    trainer = Trainer(copy.deepcopy(tuned.model), args, data_collator=collate, train_dataset=rows)
    assert trainer.train().global_step == 2
    assert sizes[: 2 * tuned.new.gradient_accumulation_steps] == [tuned.found.batch_size] * (
        2 * tuned.new.gradient_accumulation_steps
    )


@pytest.mark.slow
def test_columns_and_labels_go_the_way_of_the_trainer(tmp_path: Path):
    """A column of text would not collate, and `label` is what the default collator takes for `labels`."""
    args = arguments(
        tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=40, bf16=True
    )
    new, found = tune_training_arguments(args, bert(), Columns(32), eval_dataset=Columns(8), limits=QUICK)
    assert new.per_device_train_batch_size == found.batch_size
    # The samples of an optimizer step stay.
    assert found.accumulation_steps == new.gradient_accumulation_steps
    assert found.global_batch_size == 4
    assert found.workload.loss == "the model's own"
    assert found.workload.batch_size == 4
    assert found.workload.precision is Precision.BF16
    assert new.max_steps == 40
    # 40 steps of 4 samples each, of the 32 in the data set.
    assert found.workload.epochs == 5


class Stream(IterableDataset[int]):
    """Samples of unknown number."""

    def __iter__(self) -> Iterator[int]:
        yield from range(8)


@pytest.mark.parametrize(
    ("options", "dataset", "epochs"),
    [
        ({"num_train_epochs": 2.5}, Columns(32), 2.5),
        ({"max_steps": 40}, Columns(32), 10),
        ({"max_steps": 40, "gradient_accumulation_steps": 2, "num_train_epochs": 3}, Columns(32), 20),
        ({"max_steps": 40}, Stream(), None),
        ({"max_steps": 40}, Columns(0), None),
    ],
)
def test_epochs_are_those_of_the_steps_where_steps_end_the_training(
    tmp_path: Path, options: dict[str, Any], dataset: Any, epochs: float | None
):
    args = arguments(tmp_path, per_device_train_batch_size=8, **options)
    assert transformers._epochs(args, dataset) == epochs


@pytest.mark.slow
def test_find_takes_a_model_and_rows_as_they_are():
    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {
            "input_ids": torch.tensor([row["input_ids"] for row in rows]),
            "labels": torch.tensor([row["label"] for row in rows]),
        }

    found = autobatch.find(bert(), Columns(32), collate_fn=collate, device="cpu", limits=QUICK)
    assert found.workload.model == "BertForSequenceClassification"
    assert found.workload.loss == "the model's own"
    assert found.batch_size <= 4


def doubts(model: nn.Module, collate: Any, rows: Any, folder: Path, found: Recommendation) -> list[str]:
    return accumulation.gradient_warnings(arguments(folder), model, rows, collate, found)


@pytest.mark.slow
def test_a_model_that_counts_its_loss_right_gives_no_doubt(tuned: Tuned, tmp_path: Path):
    rows = hf_text.build_dataset()[:64]
    assert doubts(gpt2(), text_for_gpt2, rows, tmp_path, tuned.found) == []


@pytest.mark.slow
def test_what_goes_wrong_in_the_trial_is_told(tuned: Tuned, tmp_path: Path):
    def dies(rows: list[Any]) -> Any:
        os._exit(3)

    (told,) = doubts(bert(), dies, Columns(64), tmp_path, tuned.found)
    assert told.endswith("is not known: the process that tried it ended with status 3")


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor"])
def test_the_optimizer_is_the_trainers(tmp_path: Path, optim: str):
    args = arguments(
        tmp_path, optim=optim, learning_rate=3e-4, weight_decay=0.1, adam_beta1=0.8, adam_epsilon=1e-6
    )
    model = bert()
    own = transformers._optimizer(args, model)
    theirs = Trainer(model, args).create_optimizer()
    assert type(own) is type(theirs)
    assert len(own.param_groups) == len(theirs.param_groups) == 2
    for one, other in zip(own.param_groups, theirs.param_groups, strict=True):
        assert [id(p) for p in one["params"]] == [id(p) for p in other["params"]]
        assert {k: v for k, v in one.items() if k != "params"} == {
            k: v for k, v in other.items() if k != "params"
        }


def test_the_worker_gets_the_model_as_the_trainer_prepares_it(tmp_path: Path):
    args = arguments(
        tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    model = gpt2()
    assert model.config.use_cache
    sent = cloudpickle.dumps(transformers._AsTrained(model, transformers._settings(args)))
    arrived = pickle.loads(sent)
    assert isinstance(arrived, GPT2LMHeadModel)
    assert arrived.is_gradient_checkpointing
    # With transformers 4 the model's own setting holds.
    assert arrived.config.use_cache == getattr(args, "use_cache", True)
    assert model.config.use_cache
    assert not model.is_gradient_checkpointing


def test_labels_of_other_names_use_the_models_own_loss_too(tmp_path: Path):
    """Question answering has two: the step is then a function of its own."""
    model = bert(BertForQuestionAnswering)
    assert "labels" not in transformers._label_names(arguments(tmp_path), model)
    batch = {"input_ids": torch.full((2, 6), 5), "start_positions": torch.tensor([0, 1])}
    loss = transformers._own_step(model, {**batch, "end_positions": torch.tensor([2, 3])})
    assert loss.shape == ()
    assert loss.requires_grad


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(found=recommendations(), asked=st.booleans())
def test_the_learning_rate_is_set_where_it_was_asked_for(found: Recommendation, asked: bool):
    args = arguments(Path("nowhere"), learning_rate=1e-3)
    new = with_batch_size(args, found, learning_rate=asked)
    wanted = found.learning_rate if asked and found.learning_rate is not None else 1e-3
    assert new.learning_rate == wanted
    assert args.learning_rate == 1e-3
    assert new.per_device_train_batch_size == found.batch_size


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"label_smoothing_factor": 0.1}, "unmeasured_argument", "`label_smoothing_factor` is 0.1"),
        ({"torch_compile": True}, "unmeasured_argument", "`torch_compile`"),
    ],
)
def test_a_step_that_is_not_measured_here_is_an_error(tmp_path: Path, changed, code, words):
    with pytest.raises(UsageError) as raised:
        tune_training_arguments(arguments(tmp_path, **changed), bert(), Columns(8))
    assert raised.value.code == code
    assert words in str(raised.value)
    assert "hint: give `autobatch.find`" in str(raised.value)


def test_several_devices_are_an_error(tmp_path: Path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(UsageError, match="measured on one device") as raised:
        tune_training_arguments(args, bert(), Columns(8))
    assert "1 processes, 2 devices in each" in raised.value.facts[0]


@pytest.mark.parametrize(
    ("args", "model", "code"),
    [
        (lambda folder: {"per_device_train_batch_size": 8}, bert, "bad_arguments"),
        (arguments, lambda: bert, "not_a_model"),
    ],
)
def test_what_is_of_another_kind_is_an_error(tmp_path: Path, args, model, code):
    with pytest.raises(UsageError) as raised:
        tune_training_arguments(args(tmp_path), model(), Columns(8))
    assert raised.value.code == code


def test_a_frozen_model_is_an_error(tmp_path: Path):
    model = bert().requires_grad_(False)
    with pytest.raises(autobatch.AutobatchError, match="no parameter to train"):
        tune_training_arguments(arguments(tmp_path), model, Columns(8))
