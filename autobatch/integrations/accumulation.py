"""Compare the gradient that the installed Trainer accumulates with that of a single large batch.

The Trainer misjudges how some models average their loss: accumulation over n batches then gives n times the
gradient (huggingface/transformers issue 47688). The comparison runs in a child process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from autobatch.engines.interpreter import python_command
from autobatch.engines.worker_process import IN_WORKER
from autobatch.records.recommendation import Recommendation
from autobatch.workload import serialization
from autobatch.workload.user_errors import describe_error

# Enough to distinguish n times the gradient from the gradient, in about a second.
_MOST_SAMPLES, _MOST_STEPS = 4, 4
_MOST_SECONDS = 300.0
# Sums in another order differ by millionths; another average of the loss differs by far more.
_TOLERANCE = 0.02
_FIX = "trainer.model_accepts_loss_kwargs = False"
# The arguments that affect the average of a loss.
_KEPT_ARGUMENTS = ("remove_unused_columns", "label_names", "average_tokens_across_devices")
# The caller's objects may need its modules, so the child takes over its import path.
_PROGRAM = (
    "import json; sys.path[:0] = json.loads(sys.argv[3]); "
    "from autobatch.integrations.accumulation import main; main()"
)


def gradient_warnings(
    args: Any, model: Any, dataset: Any, collate: Callable[[list[Any]], Any], recommendation: Recommendation
) -> list[str]:
    """Warnings about the recommended accumulation; empty where it equals a single large batch."""
    samples = min(recommendation.batch_size, _MOST_SAMPLES)
    steps = min(recommendation.accumulation_steps, _MOST_STEPS)
    objects = {
        "model": model,
        "dataset": dataset,
        "collate": collate,
        "samples": samples,
        "steps": steps,
        "arguments": {name: getattr(args, name) for name in _KEPT_ARGUMENTS},
    }
    with serialization.packed(objects) as payload, tempfile.TemporaryDirectory(prefix="autobatch-") as folder:
        answer = _ask_child(payload, folder)
    if "error" in answer:
        return [
            "whether gradients accumulated by the Trainer equal those of a single batch is not known: "
            f"{answer['error']}"
        ]
    return _warnings(answer, type(model).__name__)


def _warnings(answer: dict[str, Any], model: str) -> list[str]:
    if _agrees(answer["accumulated"]):
        return []
    samples, steps = answer["samples"], answer["steps"]
    text = (
        f"with transformers {answer['version']} and {model} the gradient of {steps} batches of {samples}, "
        f"accumulated, is {_difference(answer['accumulated'])} of one batch of {samples * steps}"
    )
    if _agrees(answer["fixed"]):
        return [f"{text}; with `{_FIX}`, set before training, it is {_difference(answer['fixed'])}"]
    return [f"{text}, also with `{_FIX}`: use a batch size that needs no accumulation"]


def _agrees(compared: dict[str, float]) -> bool:
    return abs(compared["ratio"] - 1) <= _TOLERANCE and compared["rest"] <= _TOLERANCE


def _difference(compared: dict[str, float]) -> str:
    text = f"{compared['ratio']:.2f} times that"
    return (
        text
        if compared["rest"] <= _TOLERANCE
        else f"{text}, with {compared['rest']:.0%} in other directions,"
    )


def _ask_child(payload: str, folder: str) -> dict[str, Any]:
    """The child's answer, or its `error`. The child ends with this process, and uses no accelerator."""
    read_end, write_end = os.pipe()
    try:
        ended = subprocess.run(
            python_command(_PROGRAM, payload, folder, json.dumps(sys.path)),
            cwd=folder,
            env={**os.environ, IN_WORKER: "1", "CUDA_VISIBLE_DEVICES": ""},
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_MOST_SECONDS,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {_MOST_SECONDS:.0f} seconds"}
    finally:
        os.close(read_end)
        os.close(write_end)
    try:
        answer: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        return {"error": f"the process that tried it ended with status {ended.returncode}"}
    return answer


def main() -> NoReturn:
    """The child: print the answer or the error as a JSON object, and end."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        answer = _compare(sys.argv[1], sys.argv[2])
    # The user's code may raise a BaseException.
    except BaseException as error:
        answer = {"error": describe_error(error)}
    os.write(out, json.dumps(answer).encode())
    os._exit(0)


def _end_with_parent() -> None:
    """End this process when standard input closes: nobody writes to it, so it closes with the parent."""
    with contextlib.suppress(OSError):
        os.read(0, 1)
    os._exit(1)


def _compare(payload: str, folder: str) -> dict[str, Any]:
    import transformers

    objects = serialization.unpacked(payload)
    rows = list(_first_rows(objects["dataset"], objects["samples"] * objects["steps"]))
    steps = objects["steps"]
    samples = len(rows) // steps
    rows = rows[: samples * steps]
    if samples == 0:
        raise ValueError("the data set has too few samples")

    def gradient(size: int, count: int, fixed: bool = False) -> Any:
        return _gradient(objects, rows, size, count, folder, fixed=fixed)

    whole = gradient(len(rows), 1)
    return {
        "version": transformers.__version__,
        "samples": samples,
        "steps": steps,
        "accumulated": _compare_to(whole, gradient(samples, steps)),
        "fixed": _compare_to(whole, gradient(samples, steps, fixed=True)),
    }


def _first_rows(dataset: Any, count: int) -> Iterator[Any]:
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return (dataset[index] for index in range(min(count, len(dataset))))
    return itertools.islice(dataset, count)


def _gradient(
    objects: dict[str, Any], rows: list[Any], size: int, count: int, folder: str, *, fixed: bool
) -> Any:
    """The gradient at the first step of the Trainer's optimizer, as a float64 vector."""
    import torch
    import transformers

    model = objects["model"].float().eval()
    # Without dropout, which would make every gradient different.
    model.train = lambda mode=True: model
    model.zero_grad(set_to_none=True)
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=count,
        max_steps=1,
        max_grad_norm=0.0,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **objects["arguments"],
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    taken: list[Any] = []
    optimizer.register_step_pre_hook(lambda *_: taken.append(_flat_gradient(model)))
    trainer = transformers.Trainer(
        model,
        arguments,
        data_collator=objects["collate"],
        train_dataset=rows,
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    )
    if fixed:
        trainer.model_accepts_loss_kwargs = False
    trainer.train()
    return taken[0]


def _flat_gradient(model: Any) -> Any:
    import torch

    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    return torch.cat([part.to_dense().flatten().double() for part in parts])


def _compare_to(whole: Any, accumulated: Any) -> dict[str, float]:
    """`ratio`: the component along the gradient `whole`, as a multiple of it. `rest`: that across it."""
    squared = float(whole @ whole)
    if squared == 0 or not math.isfinite(squared):
        raise ValueError("the gradient is zero or not finite")
    ratio = float(accumulated @ whole) / squared
    return {"ratio": ratio, "rest": float((accumulated - ratio * whole).norm()) / math.sqrt(squared)}
