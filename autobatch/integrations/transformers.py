"""Hugging Face's Trainer: training arguments with a measured batch size, before the Trainer is built."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader

from autobatch import api
from autobatch.integrations import accumulation
from autobatch.records.errors import TargetError, UsageError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.workload.loss import loss_of_output

if TYPE_CHECKING:
    from transformers import TrainingArguments

_LABELS = "labels"
# Columns that the Trainer keeps beside the arguments of the model's `forward`.
_ALWAYS_KEPT = ("label", "label_ids")
# The arguments that count in steps, so that a new batch size changes them.
_SCHEDULE = ("warmup_steps", "max_steps")
# Arguments that change the Trainer's step in a way that isn't measured here.
_UNMEASURED = ("label_smoothing_factor", "torch_compile", "deepspeed", "fsdp", "use_liger_kernel")


def tune_training_arguments(
    args: TrainingArguments,
    model: nn.Module,
    dataset: Any,
    *,
    data_collator: Callable[[list[Any]], Any] | None = None,
    eval_dataset: Any = None,
    learning_rate: bool = False,
    limits: Limits | None = None,
) -> tuple[TrainingArguments, Recommendation]:
    """Training arguments with a measured batch size, and the recommendation that it comes from.

    The arguments are a copy with new `per_device_train_batch_size` and `gradient_accumulation_steps`. With
    `learning_rate=True` it also has the recommended `learning_rate`, if the check gave any. `warmup_steps`
    and `max_steps` change so that they cover as many samples as before. Build the Trainer from the copy; an
    existing Trainer keeps its old batch size. `args`, `model` and `dataset` are only read.

    The measured step is that of these arguments: optimizer, device, columns that the Trainer keeps, gradient
    checkpointing. The current batch size, to which the learning rate belongs, is
    `per_device_train_batch_size` x `gradient_accumulation_steps`. Arguments that accumulate keep it, divided
    anew. `data_collator` and `eval_dataset` are the Trainer's; the default collator is
    `transformers.default_data_collator`. If the recommendation accumulates gradients, the accumulated
    gradient is compared with that of a single large batch. A difference becomes a warning with its remedy.

    Raises UsageError for arguments whose step can't be measured here, and the errors of `autobatch.find`.
    """
    _check(args, model)
    collate = _collator(args, model, data_collator or transformers.default_data_collator)
    current = args.per_device_train_batch_size * args.gradient_accumulation_steps
    recommendation = api.find(
        _AsTrained(model, _settings(args)),  # type: ignore[arg-type]
        _loader(args, dataset, collate),
        optimizer=_optimizer(args, model),
        val_dataset=eval_dataset,
        training_step=None if _LABELS in _label_names(args, model) else _own_step,
        batch_size=current,
        accumulation_steps=args.gradient_accumulation_steps,
        epochs=_epochs(args, dataset),
        schedule={name: int(getattr(args, name)) for name in _SCHEDULE},
        precision=_precision(args),
        device=str(args.device),
        # The size is decided with the rate that the arguments will have.
        limits=replace(limits or Limits(), keep_learning_rate=not learning_rate),
    )
    if recommendation.accumulation_steps > 1:
        warnings = accumulation.gradient_warnings(args, model, dataset, collate, recommendation)
        recommendation = replace(recommendation, warnings=(*recommendation.warnings, *warnings))
    return with_batch_size(args, recommendation, learning_rate=learning_rate), recommendation


def with_batch_size(
    args: TrainingArguments, recommendation: Recommendation, *, learning_rate: bool = False
) -> TrainingArguments:
    """A copy of training arguments that follows a recommendation, new or loaded from a file."""
    tuned = copy.deepcopy(args)
    tuned.per_device_train_batch_size = recommendation.batch_size
    tuned.gradient_accumulation_steps = recommendation.accumulation_steps
    if learning_rate and recommendation.learning_rate is not None:
        tuned.learning_rate = recommendation.learning_rate
    for count in recommendation.schedule:
        setattr(tuned, count.name, count.steps)
    return tuned


def _check(args: Any, model: Any) -> None:
    """Raises UsageError for arguments or a model that can't be measured as the Trainer would train."""
    if not isinstance(args, transformers.TrainingArguments):
        raise UsageError(
            f"the arguments are a {type(args).__name__}, not TrainingArguments",
            code="bad_arguments",
            hint="give `transformers.TrainingArguments`, or use `autobatch.find`",
        )
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model is a {type(model).__name__}, not an nn.Module",
            code="not_a_model",
            hint="give the model itself, e.g. the result of a `model_init`",
        )
    processes = args.world_size * max(1, args.n_gpu)
    if processes > 1:
        raise UsageError(
            "the batch size is measured on one device, but these arguments train on several",
            code="several_devices",
            facts=(f"{args.world_size} processes, {max(1, args.n_gpu)} devices in each",),
            hint="measure in a separate program with one visible device (`CUDA_VISIBLE_DEVICES=0`)",
        )
    for name in _UNMEASURED:
        if getattr(args, name, None):
            raise UsageError(
                f"the arguments set `{name}`, which changes the step in a way that is not measured here",
                code="unmeasured_argument",
                facts=(f"`{name}` is {getattr(args, name)!r}",),
                hint="give `autobatch.find` a `training_step` that trains as your program does",
            )


def _epochs(args: TrainingArguments, dataset: Any) -> float | None:
    """The epochs of the training; None where `max_steps` limits it on data of unknown size.

    One optimizer step takes the samples of the current batch size and accumulation.
    """
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    samples = len(dataset) if hasattr(dataset, "__len__") else 0
    batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return args.max_steps * batch_size / samples if samples else None


def _precision(args: TrainingArguments) -> str | None:
    """The precision of the Trainer's autocast; None where it has none."""
    return next((name for name in ("bf16", "fp16") if getattr(args, name)), None)


def _label_names(args: TrainingArguments, model: nn.Module) -> list[str]:
    return list(args.label_names or transformers.utils.find_labels(type(_unwrapped(model))))


def _unwrapped(model: Any) -> Any:
    """The model whose `forward` takes the columns: for an adapter (PEFT) its base model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _own_step(model: nn.Module, batch: Mapping[str, Any]) -> Any:
    """The loss of a model whose labels go by other names, such as `start_positions`."""
    return loss_of_output(model(**batch))


def _optimizer(args: TrainingArguments, model: nn.Module) -> torch.optim.Optimizer:
    """The Trainer's optimizer for these arguments. It only refers to the model's parameters."""
    kind, options = transformers.Trainer.get_optimizer_cls_and_kwargs(args, model)
    plain = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if not plain or "params" in options or "model" in options:
        raise UsageError(
            f"the optimizer `{args.optim}` can't be built without the Trainer",
            code="unmeasured_argument",
            hint='give `autobatch.find` an `optimizer`, or use `optim="adamw_torch"`',
        )
    # The method doesn't use its Trainer.
    decayed = set(transformers.Trainer.get_decay_parameter_names(None, model))
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if name in decayed], "weight_decay": args.weight_decay},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TargetError(
            f"{type(model).__name__} has no parameter to train",
            code="nothing_to_train",
            hint="give a model with parameters that require gradients",
        )
    made: torch.optim.Optimizer = kind(groups, **options)
    return made


def _loader(args: TrainingArguments, dataset: Any, collate: Callable[[list[Any]], Any]) -> DataLoader[Any]:
    """The data set in a DataLoader like the Trainer's, so that loading is timed too."""
    workers = args.dataloader_num_workers
    return DataLoader(
        dataset,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
        persistent_workers=args.dataloader_persistent_workers and workers > 0,
        pin_memory=args.dataloader_pin_memory,
        drop_last=args.dataloader_drop_last,
    )


def _collator(
    args: TrainingArguments, model: nn.Module, collate: Callable[[list[Any]], Any]
) -> Callable[[list[Any]], Any]:
    if not args.remove_unused_columns:
        return collate
    taken = inspect.signature(_unwrapped(model).forward).parameters
    return _Collator(collate, frozenset([*taken, *_label_names(args, model), *_ALWAYS_KEPT]))


@dataclass(frozen=True)
class _Collator:
    """Collate the columns that the model takes, as the Trainer does."""

    collate: Callable[[list[Any]], Any]
    columns: frozenset[str]

    def __call__(self, samples: Iterable[Any]) -> Any:
        return self.collate([self._used_columns(sample) for sample in samples])

    def _used_columns(self, sample: Any) -> Any:
        if not isinstance(sample, Mapping):
            return sample
        return {name: value for name, value in sample.items() if name in self.columns}


@dataclass(frozen=True)
class _AsTrained:
    """Stand for a model on its way to the worker, where it arrives as that model with `settings` applied."""

    model: nn.Module
    settings: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _prepared, (self.model, self.settings)


def _settings(args: Any) -> dict[str, Any]:
    # transformers 5.24 renamed the argument, and still sets the old name too.
    renamed = hasattr(args, "activation_checkpointing")
    name = "activation_checkpointing" if renamed else "gradient_checkpointing"
    return {
        # The Trainer of transformers 4 leaves the model's own.
        "use_cache": getattr(args, "use_cache", None),
        "checkpointing": name if getattr(args, name) else "",
        "checkpointing_kwargs": dict(getattr(args, f"{name}_kwargs") or {}),
    }


def _prepared(model: Any, settings: dict[str, Any]) -> nn.Module:
    """The model with the changes that the Trainer makes before training. Runs in the worker, on its copy."""
    if getattr(model, "config", None) is not None and settings["use_cache"] is not None:
        model.config.use_cache = settings["use_cache"]
    name, options = settings["checkpointing"], settings["checkpointing_kwargs"]
    if name:
        separate = {key: options.pop(key) for key in ("every_n_layers", "offload") if key in options}
        getattr(model, f"{name}_enable")(**{f"{name}_kwargs": options or None}, **separate)
    prepared: nn.Module = model
    return prepared
