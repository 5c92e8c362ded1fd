"""After `find` the caller's process is as it was: model, optimizer, random numbers, settings, bit by bit."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import autobatch
from autobatch import Limits
from autobatch.records.interruption import Interrupted
from tests.faults.probing import PATIENCE_SECONDS, wait_until

# The search ends by itself: the budget is for a slow machine.
LIMITS = Limits(max_batch=8, budget_seconds=60)


class Net(nn.Module):
    """Everything that training could change: dropout, running statistics, frozen weights, mixed flags."""

    def __init__(self, from_size_4: Callable[[], None]) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(16, 4)
        self.from_size_4 = from_size_4
        self.last.bias.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) >= 4:
            self.from_size_4()
        hidden = self.drop(self.norm(self.first(inputs)))
        return self.last(hidden)  # type: ignore[no-any-return]


class Workload:
    """A model in the middle of a training: state in the optimizer, gradients, hooks."""

    def __init__(self, from_size_4: Callable[[], None] = lambda: None) -> None:
        self.model = Net(from_size_4)
        self.data = (torch.randn(64, 8), torch.randint(0, 4, (64,)))
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": self.trained[:2]},
            {"params": self.trained[2:], "lr": 0.01},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)
        for _ in range(2):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.data[0][:3]), self.data[1][:3]).backward()
            self.optimizer.step()
            self.scheduler.step()
        self.model.first.register_forward_hook(hook)
        self.model.norm.eval()

    def find(self, min_batch: int = 1) -> autobatch.Recommendation:
        limits = replace(LIMITS, min_batch=min_batch)
        return autobatch.find(self.model, self.data, optimizer=self.optimizer, limits=limits)

    def snapshot(self) -> dict[str, Any]:
        """All that can be compared of the model, the optimizer, and this process."""
        return {**_of_model(self.model), **_of_optimizer(self.optimizer), **_of_process()}


def hook(module: nn.Module, inputs: Any, output: Any) -> None:
    """Does nothing; it must stay registered."""


def fail() -> None:
    raise ValueError("no more than 3")


class Waiting:
    """Tells that it was called, then waits to be ended."""

    def __init__(self, reached: Path) -> None:
        self.reached = reached

    def __call__(self) -> None:
        self.reached.touch()
        time.sleep(1000)


def test_a_success_changes_nothing_in_the_caller() -> None:
    work = Workload()
    before = work.snapshot()
    found = work.find()

    assert_same(before, work.snapshot())
    assert found.batch_size in {trial.batch_size for trial in found.trials if trial.ok}
    # The optimizer still trains this very model.
    weight = work.model.first.weight.detach().clone()
    work.optimizer.step()
    assert not torch.equal(weight, work.model.first.weight)


def test_unusual_settings_of_the_caller_stay_and_do_not_disturb() -> None:
    threads = torch.get_num_threads()
    before_handler = signal.signal(signal.SIGINT, handler)
    # A caller that ignores its children's end, as some servers do.
    before_child = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    work = Workload()
    # A number of threads changes what OpenMP does, so it has been used by now.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    try:
        before = work.snapshot()
        found = work.find()
        after = work.snapshot()
    finally:
        signal.signal(signal.SIGINT, before_handler)
        signal.signal(signal.SIGCHLD, before_child)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    assert_same(before, after)
    assert found.trials


@pytest.mark.slow
def test_an_error_of_larger_sizes_changes_nothing_in_the_caller() -> None:
    work = Workload(fail)
    before = work.snapshot()
    found = work.find(min_batch=2)

    assert_same(before, work.snapshot())
    assert {trial.batch_size for trial in found.trials if trial.ok} == {2, 3}
    failed = [trial for trial in found.trials if trial.outcome == "failed"]
    assert {trial.detail for trial in failed} == {"ValueError: no more than 3"}
    assert (found.ceiling.batch_size, found.ceiling.limited_by) == (3, "size_limit")
    assert "batch sizes from 4 on can't be trained: ValueError: no more than 3" in found.warnings


def test_an_error_of_every_size_changes_nothing_in_the_caller() -> None:
    work = Workload(fail)
    before = work.snapshot()
    with pytest.raises(autobatch.AutobatchError) as raised:
        work.find(min_batch=4)

    assert_same(before, work.snapshot())
    assert raised.value.code == "step_fails"
    assert "ValueError: no more than 3" in raised.value.facts


def test_what_cannot_be_sent_changes_nothing_in_the_caller() -> None:
    work = Workload()
    vars(work.model)["lock"] = threading.Lock()
    before = work.snapshot()
    with pytest.raises(autobatch.AutobatchError, match=r"model\.lock"):
        work.find()
    assert_same(before, work.snapshot())


def test_an_interrupt_changes_nothing_in_the_caller(tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    work = Workload(Waiting(reached))
    over = threading.Event()

    def interrupt() -> None:
        wait_until(lambda: reached.exists() or over.is_set(), "batch size 4 is tried")
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    before = work.snapshot()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(Interrupted) as raised:
            # BatchNorm fails with a single sample.
            work.find(min_batch=2)
    finally:
        over.set()
        thread.join(PATIENCE_SECONDS)

    assert_same(before, work.snapshot())
    assert raised.value.curve is not None
    assert [trial.batch_size for trial in raised.value.curve.trials] == [2]
    assert raised.value.recommendation is not None


def handler(number: int, frame: object) -> None:
    """Some handler of the caller's."""


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert not changed, {key: (before.get(key), after.get(key)) for key in changed}


def _of_model(model: nn.Module) -> dict[str, Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = {name: (_bits(one), one.requires_grad, _bits(one.grad)) for name, one in tensors.items()}
    hooks = {
        f"{name}.{kind}": list(value.items())
        for name, module in model.named_modules()
        for kind, value in vars(module).items()
        if kind.endswith("_hooks")
    }
    return {
        **{f"tensor {name}": value for name, value in kept.items()},
        **{f"hooks {name}": value for name, value in hooks.items()},
        "train flags": {name: module.training for name, module in model.named_modules()},
    }


def _of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    groups = [{**group, "params": [id(p) for p in group["params"]]} for group in optimizer.param_groups]
    state = {
        id(parameter): {k: _bits(v) if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        for parameter, values in optimizer.state.items()
    }
    hooks = [list(optimizer._optimizer_step_pre_hooks), list(optimizer._optimizer_step_post_hooks)]
    return {"param_groups": groups, "optimizer state": state, "optimizer hooks": hooks}


def _of_process() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()
    return {
        "torch random numbers": torch.get_rng_state().numpy().tobytes(),
        "numpy random numbers": (numpy_state[1].tobytes(), numpy_state[2:]),
        "python random numbers": random.getstate(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "matmul precision": torch.get_float32_matmul_precision(),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "arguments": list(sys.argv),
        "folder": os.getcwd(),
        "streams": (id(sys.stdin), id(sys.stdout), id(sys.stderr)),
        "exception hooks": (sys.excepthook, threading.excepthook),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "warnings": list(warnings.filters),
        "log level": logging.getLogger().level,
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "limits": _resource_limits(),
        "processes": psutil.Process().children(recursive=True),
    }


def _resource_limits() -> list[tuple[int, int]]:
    import resource

    return [resource.getrlimit(one) for one in (resource.RLIMIT_DATA, resource.RLIMIT_CORE)]


def _bits(tensor: torch.Tensor | None) -> Any:
    """What a tensor is: place, in-place changes so far, and its bytes."""
    if tensor is None:
        return None
    return tensor.data_ptr(), tensor._version, tensor.dtype, tensor.detach().numpy().tobytes()
