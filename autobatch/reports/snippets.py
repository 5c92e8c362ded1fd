"""Code that puts an answer to use, with its figures filled in. No name of the user's gets into it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from autobatch.records.recommendation import Recommendation
from autobatch.reports.text.commands import probe_command

# Optimizers that torch and Keras have under the same name; any other is left to its owner to write.
_TORCH_OPTIMIZERS = ("Adam", "AdamW", "SGD", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta")
_KERAS_OPTIMIZERS = ("Adam", "AdamW", "SGD", "Nadam", "Adamax", "RMSprop", "Adagrad", "Adadelta")
# Steps that `TrainingArguments` knows by the same name.
_HF_STEPS = ("warmup_steps", "max_steps")
_WIDTH = 46


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code, what it is for, and the language that it is in."""

    title: str
    language: str
    code: str


def learning_rate_text(recommendation: Recommendation) -> str:
    """`0.0014`, as every report rounds it; empty where no check has found one."""
    rate = recommendation.learning_rate
    return "" if rate is None or not isfinite(rate) else f"{rate:.2g}"


def factor_text(recommendation: Recommendation) -> str:
    """`1.27`: what the present learning rates are multiplied by; empty where no check has found it."""
    factor = recommendation.learning_rate_factor
    return "" if factor is None or not isfinite(factor) else f"{factor:.3g}"


def made_for(recommendation: Recommendation) -> tuple[Snippet, ...]:
    """The answer in plain PyTorch, Lightning, Hugging Face Transformers, Keras and a shell."""
    return (
        Snippet("PyTorch", "python", _pytorch(recommendation)),
        Snippet("Lightning", "python", _lightning(recommendation)),
        Snippet("Hugging Face Transformers", "python", _transformers(recommendation)),
        Snippet("Keras", "python", _keras(recommendation)),
        Snippet("Shell", "sh", _shell(recommendation)),
    )


def _pytorch(found: Recommendation) -> str:
    lines = ["from torch.utils.data import DataLoader"]
    if found.world_size > 1:
        lines.append("from torch.utils.data.distributed import DistributedSampler")
    order = "sampler=DistributedSampler(dataset)" if found.world_size > 1 else "shuffle=True"
    lines += ["", *_call("loader = DataLoader", _loading(found, order))]
    if rate := learning_rate_text(found):
        lines += ["for group in optimizer.param_groups:", f'    group["lr"] = {rate}']
    elif factor := factor_text(found):
        lines += ["for group in optimizer.param_groups:", f'    group["lr"] *= {factor}']
    if (steps := found.accumulation_steps) > 1:
        lines += [
            "",
            "for step, (x, y) in enumerate(loader, start=1):",
            f"    loss = loss_fn(model(x), y) / {steps}",
            "    loss.backward()",
            f"    if step % {steps} == 0:",
            "        optimizer.step()",
            "        optimizer.zero_grad()",
        ]
    return "\n".join(lines)


def _lightning(found: Recommendation) -> str:
    options = [f"accumulate_grad_batches={found.accumulation_steps}"] if found.accumulation_steps > 1 else []
    options += [f"devices={found.world_size}"] if found.world_size > 1 else []
    name = _known(found.workload.optimizer, _TORCH_OPTIMIZERS)
    rate = _rate_argument(found, "lr")
    imports = ["import lightning", *(["import torch"] if rate and name else [])]
    lines = [*imports, "from torch.utils.data import DataLoader", ""]
    if rate is not None:
        made = f"torch.optim.{name}" if name else "YourOptimizer"
        lines += [
            "# in your LightningModule",
            "def configure_optimizers(self):",
            *(f"    {line}" for line in _call(f"return {made}", ["self.parameters()", rate])),
            "",
        ]
    lines += [
        *_call("loader = DataLoader", _loading(found, "shuffle=True")),
        *_call("trainer = lightning.Trainer", options),
        "trainer.fit(module, loader)",
    ]
    return "\n".join(lines)


def _transformers(found: Recommendation) -> str:
    arguments = ['output_dir="out"', f"per_device_train_batch_size={found.batch_size}"]
    if found.accumulation_steps > 1:
        arguments.append(f"gradient_accumulation_steps={found.accumulation_steps}")
    if rate := _rate_argument(found, "learning_rate"):
        arguments.append(rate)
    if workers := _workers(found):
        arguments.append(f"dataloader_num_workers={workers}")
    arguments += [f"{one.name}={one.steps}" for one in found.schedule if one.name in _HF_STEPS]
    call = _call("arguments = TrainingArguments", arguments)
    lines = ["from transformers import TrainingArguments", "", *call]
    if found.world_size > 1:
        lines.append(f"# started with: torchrun --nproc-per-node {found.world_size} train.py")
    return "\n".join(lines)


def _keras(found: Recommendation) -> str:
    options = [rate] if (rate := _rate_argument(found, "learning_rate")) else []
    if found.accumulation_steps > 1:
        options.append(f"gradient_accumulation_steps={found.accumulation_steps}")
    lines = ["import keras", ""] if options else []
    if options:
        name = _known(found.workload.optimizer, _KERAS_OPTIMIZERS)
        made = f"keras.optimizers.{name}" if name else "YourOptimizer"
        lines += _call(f"optimizer = {made}", options)
        lines += _call("model.compile", ["optimizer=optimizer", "loss=loss"])
    return "\n".join([*lines, f"model.fit(x, y, batch_size={found.batch_size})"])


def _shell(found: Recommendation) -> str:
    lines = [f"BS={found.batch_size}"]
    options = '--batch-size "$BS"'
    if rate := learning_rate_text(found):
        lines.append(f"LR={rate}")
        options += ' --lr "$LR"'
    if found.accumulation_steps > 1:
        lines.append(f"STEPS={found.accumulation_steps}")
        options += ' --accumulate "$STEPS"'
    start = "python" if found.world_size == 1 else f"torchrun --nproc-per-node {found.world_size}"
    lines.append(f"{start} train.py \\\n    {options}")
    if command := probe_command(found):
        lines += ["", "# or measured where it runs:", f"BS=$({command} -q)"]
    return "\n".join(lines)


def _loading(found: Recommendation, order: str) -> list[str]:
    """The arguments of a DataLoader."""
    workers = _workers(found)
    more = [f"num_workers={workers}"] if workers else []
    return ["dataset", f"batch_size={found.batch_size}", order, *more]


def _call(name: str, arguments: list[str]) -> list[str]:
    """A call on one line, or on one line for each argument where that would be long on a telephone."""
    whole = f"{name}({', '.join(arguments)})"
    if len(whole) <= _WIDTH:
        return [whole]
    return [f"{name}(", *(f"    {argument}," for argument in arguments), ")"]


def _workers(found: Recommendation) -> int:
    """The number of workers that keeps up with the training; 0 where that isn't known, or none are needed."""
    return (found.loader.sufficient_workers or 0) if found.loader is not None else 0


def _rate_argument(found: Recommendation, name: str) -> str | None:
    """The learning rate as an argument; by its factor where parameter groups differ in it."""
    if rate := learning_rate_text(found):
        return f"{name}={rate}"
    factor = factor_text(found)
    return f"{name}={factor} * your_learning_rate" if factor else None


def _known(optimizer: str, names: tuple[str, ...]) -> str:
    """The name of the optimizer among `names`; empty where it isn't there."""
    return next((name for name in names if name.lower() == optimizer.lower()), "")
