"""Code that applies an answer, with its figures filled in. No name of the user's gets into it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from autobatch.records.recommendation import Recommendation
from autobatch.reports.text.commands import probe_command

# Optimizers by their names in torch and in Keras; any other is left to the user to write.
_TORCH_OPTIMIZERS = ("Adam", "AdamW", "SGD", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta")
_KERAS_OPTIMIZERS = ("Adam", "AdamW", "SGD", "Nadam", "Adamax", "RMSprop", "Adagrad", "Adadelta")
# Steps that `TrainingArguments` knows by the same name.
_HF_STEPS = ("warmup_steps", "max_steps")
_TITLES = {"lightning": "Lightning", "transformers": "Hugging Face Transformers", "keras": "Keras"}
_WIDTH = 46


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code with its title and its language."""

    title: str
    language: str
    code: str


def learning_rate_text(recommendation: Recommendation) -> str:
    """Return `0.0014`, rounded as in every report; empty without a recommended learning rate."""
    rate = recommendation.learning_rate
    return "" if rate is None or not isfinite(rate) else f"{rate:.2g}"


def factor_text(recommendation: Recommendation) -> str:
    """Return `1.27`, the factor on the current learning rates; empty without a recommended factor."""
    factor = recommendation.learning_rate_factor
    return "" if factor is None or not isfinite(factor) else f"{factor:.3g}"


def made_for(recommendation: Recommendation) -> tuple[Snippet, ...]:
    """Write the answer for plain PyTorch, Lightning, Hugging Face Transformers, Keras and a shell."""
    return (
        Snippet("PyTorch", "python", _pytorch(recommendation)),
        Snippet("Lightning", "python", _lightning(recommendation)),
        Snippet("Hugging Face Transformers", "python", _transformers(recommendation)),
        Snippet("Keras", "python", _keras(recommendation)),
        Snippet("Shell", "sh", _shell(recommendation)),
    )


def for_framework(recommendation: Recommendation) -> tuple[list[Snippet], list[Snippet]]:
    """Return (snippets for the framework of the model and for a shell, the others)."""
    title = _TITLES.get(recommendation.workload.framework, "PyTorch")
    fitting: list[Snippet] = []
    others: list[Snippet] = []
    for snippet in made_for(recommendation):
        (fitting if snippet.title in (title, "Shell") else others).append(snippet)
    return fitting, others


def _pytorch(answer: Recommendation) -> str:
    lines = ["from torch.utils.data import DataLoader"]
    if answer.world_size > 1:
        lines.append("from torch.utils.data.distributed import DistributedSampler")
    order = "sampler=DistributedSampler(dataset)" if answer.world_size > 1 else "shuffle=True"
    lines += ["", *_call("loader = DataLoader", _loading(answer, order))]
    if rate := learning_rate_text(answer):
        lines += ["for group in optimizer.param_groups:", f'    group["lr"] = {rate}']
    elif factor := factor_text(answer):
        lines += ["for group in optimizer.param_groups:", f'    group["lr"] *= {factor}']
    if (steps := answer.accumulation_steps) > 1:
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


def _lightning(answer: Recommendation) -> str:
    options = (
        [f"accumulate_grad_batches={answer.accumulation_steps}"] if answer.accumulation_steps > 1 else []
    )
    options += [f"devices={answer.world_size}"] if answer.world_size > 1 else []
    name = _name_of(answer.workload.optimizer, _TORCH_OPTIMIZERS)
    rate = _rate_argument(answer, "lr")
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
        *_call("loader = DataLoader", _loading(answer, "shuffle=True")),
        *_call("trainer = lightning.Trainer", options),
        "trainer.fit(module, loader)",
    ]
    return "\n".join(lines)


def _transformers(answer: Recommendation) -> str:
    arguments = ['output_dir="out"', f"per_device_train_batch_size={answer.batch_size}"]
    if answer.accumulation_steps > 1:
        arguments.append(f"gradient_accumulation_steps={answer.accumulation_steps}")
    if rate := _rate_argument(answer, "learning_rate"):
        arguments.append(rate)
    if workers := _workers(answer):
        arguments.append(f"dataloader_num_workers={workers}")
    arguments += [f"{count.name}={count.steps}" for count in answer.schedule if count.name in _HF_STEPS]
    call = _call("arguments = TrainingArguments", arguments)
    lines = ["from transformers import TrainingArguments", "", *call]
    if answer.world_size > 1:
        lines.append(f"# started with: torchrun --nproc-per-node {answer.world_size} train.py")
    return "\n".join(lines)


def _keras(answer: Recommendation) -> str:
    options = [rate] if (rate := _rate_argument(answer, "learning_rate")) else []
    if answer.accumulation_steps > 1:
        options.append(f"gradient_accumulation_steps={answer.accumulation_steps}")
    lines = ["import keras", ""] if options else []
    if options:
        name = _name_of(answer.workload.optimizer, _KERAS_OPTIMIZERS)
        made = f"keras.optimizers.{name}" if name else "YourOptimizer"
        lines += _call(f"optimizer = {made}", options)
        lines += _call("model.compile", ["optimizer=optimizer", "loss=loss"])
    return "\n".join([*lines, f"model.fit(x, y, batch_size={answer.batch_size})"])


def _shell(answer: Recommendation) -> str:
    lines = [f"BS={answer.batch_size}"]
    options = '--batch-size "$BS"'
    if rate := learning_rate_text(answer):
        lines.append(f"LR={rate}")
        options += ' --lr "$LR"'
    if answer.accumulation_steps > 1:
        lines.append(f"STEPS={answer.accumulation_steps}")
        options += ' --accumulate "$STEPS"'
    start = "python" if answer.world_size == 1 else f"torchrun --nproc-per-node {answer.world_size}"
    lines.append(f"{start} train.py \\\n    {options}")
    if command := probe_command(answer):
        lines += ["", "# or measured where it runs:", f"BS=$({command} -q)"]
    return "\n".join(lines)


def _loading(answer: Recommendation, order: str) -> list[str]:
    """Return the arguments of a DataLoader."""
    workers = _workers(answer)
    more = [f"num_workers={workers}"] if workers else []
    return ["dataset", f"batch_size={answer.batch_size}", order, *more]


def _call(name: str, arguments: list[str]) -> list[str]:
    """Write a call on one line, or with a line per argument if it is long for a telephone."""
    whole = f"{name}({', '.join(arguments)})"
    if len(whole) <= _WIDTH:
        return [whole]
    return [f"{name}(", *(f"    {argument}," for argument in arguments), ")"]


def _workers(answer: Recommendation) -> int:
    """Return the number of workers that keeps up with the training; 0 if none was measured or needed."""
    return (answer.loader.sufficient_workers or 0) if answer.loader is not None else 0


def _rate_argument(answer: Recommendation, name: str) -> str | None:
    """Write the learning rate as an argument; by its factor if parameter groups differ in it."""
    if rate := learning_rate_text(answer):
        return f"{name}={rate}"
    factor = factor_text(answer)
    return f"{name}={factor} * your_learning_rate" if factor else None


def _name_of(optimizer: str, names: tuple[str, ...]) -> str:
    """Return the name of the optimizer among `names`; empty if it is not there."""
    return next((name for name in names if name.lower() == optimizer.lower()), "")
