"""A training as its optimizer steps, and the tasks that are asked of it between two of them."""

from __future__ import annotations

import os
import sys
import time
import weakref
from typing import Any

import torch
from torch import nn

from . import facts, loaders, snapshot
from .call_hook import CallHook
from .link import Link
from .memory import Memory, synchronize
from .own_updates import OwnUpdates
from .tasks import Evaluate, Measure, Noise, Observe, Step, Task, Train


class Watch:
    """One training process. It stops after its first steps, and waits for orders."""

    def __init__(self, link: Link, limit_bytes: int | None, steps: int) -> None:
        self._link = link
        self.memory = Memory(limit_bytes)
        self.optimizers: list[Any] = []
        self.roots: list[nn.Module] = []
        self.released = False
        self._task: Task = Observe(self, steps)
        self.primary: Any = None
        self.loader: Any = None
        self.steps = 0
        self._last: float | None = None
        self.first_rates: dict[int, list[float]] = {}
        self._own_updates = OwnUpdates()
        self._input: Any = None
        self.constant_inputs = 0
        # The dimension of the model's input that is the batch, where no loader says how many samples it has.
        self._dimension = 0
        self._cuts_epoch = False
        self._repeated_at = 0
        # The model was in training mode at the first step, so that another mode says something.
        self._has_mode = False
        self._clear()

    def _clear(self) -> None:
        self._fetches: list[tuple[Any, int | None]] = []
        self._load_seconds = 0.0
        self._clean = True
        self._losses: list[Any] = []
        self._backwards = 0
        self._backwards_of_optimizers = 0
        self._losses_apart = 0
        self._shape: tuple[int, ...] = ()

    # Loaders

    @property
    def cuts_evaluation(self) -> bool:
        return not self.released and self.primary is not None

    @property
    def is_measuring(self) -> bool:
        """True from the end of the first steps on: from there, this is no training any more."""
        return not self.released and not isinstance(self._task, Observe)

    @property
    def freezes(self) -> bool:
        return not self.released and self._task.frozen

    def evaluates(self, loader: Any) -> bool:
        """True for a loop over batches that is no training.

        It needs no gradients, or it is another loader's while the model is in evaluation mode.
        """
        if not torch.is_grad_enabled():
            return True
        return self._has_mode and not self._is_training(loader) and not self.roots[0].training

    def repeats(self, loader: Any) -> bool:
        """True for the loader of a training that is measured.

        A loop without a step since it last began again is no training: it ends.
        """
        repeats = self.is_measuring and self._is_training(loader) and self.steps > self._repeated_at
        self._repeated_at = self.steps
        return repeats

    def cut_epoch(self, loader: Any) -> bool:
        """True once, for the loop over training batches that is to end now."""
        cuts = self._cuts_epoch and self._is_training(loader)
        self._cuts_epoch = self._cuts_epoch and not cuts
        return cuts

    def fetched(self, loader: Any, samples: int | None, seconds: float) -> None:
        self._load_seconds += seconds
        self._fetches.append((loader, samples))
        if self.loader is None or self._is_training(loader):
            self.loader = loader

    def _is_training(self, loader: Any) -> bool:
        """True for the loader of the training, and for one that the script makes anew by the same calls."""
        if loader is self.loader:
            return True
        origin = loaders.origin_of(loader)
        return len(origin) > 1 and origin == loaders.origin_of(self.loader)

    def _count_fetches(self) -> tuple[tuple[int | None, ...], int]:
        """The samples of each training batch of a step, and the number of other loaders' batches."""
        training = [samples for loader, samples in self._fetches if self._is_training(loader)]
        if self._fetches and not training and not self.is_measuring:
            # A loader that was seen before, and that no step draws from, was evaluated.
            self.loader = self._fetches[0][0]
            return self._count_fetches()
        return tuple(training), len(self._fetches) - len(training)

    def interrupted(self) -> None:
        self._clean = False

    # Gradients

    def backward(self, loss: torch.Tensor) -> None:
        self._backwards += 1
        detached = loss.detach()
        self._losses.append(detached if detached.numel() == 1 else detached.float().mean())
        if self.primary is None and self._own_updates.seen(loss):
            self._link.send("own_updates")
            self._end()

    # Optimizers

    def before_step(self, optimizer: Any, closure: Any) -> Any:
        """Called before an optimizer's step; the closure to use, where there is one."""
        if all(optimizer is not seen for seen in self.optimizers):
            self._meet(optimizer)
        if closure is None:
            self._gradients_ready(optimizer)
            return None
        calls = 0

        def wrapped() -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                self._link.send("closure_again", optimizer=type(optimizer).__name__)
                self._end()
            loss = closure()
            self._gradients_ready(optimizer)
            return loss

        return wrapped

    def _meet(self, optimizer: Any) -> None:
        if type(optimizer).__name__ == "LBFGS":
            self._link.send("closure_again", optimizer="LBFGS")
            self._end()
        self.optimizers.append(optimizer)
        self.first_rates[id(optimizer)] = [_rate(group) for group in optimizer.param_groups]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        roots = snapshot.find_roots(parameters)
        self.roots += [root for root in roots if all(root is not seen for seen in self.roots)]
        if self.primary is None:
            self.primary = optimizer
            self._has_mode = bool(roots) and roots[0].training
            self.memory.limit_allocator()
            for root in roots[:1]:
                root.register_forward_pre_hook(CallHook(self._called), with_kwargs=True)

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the shape of a model's first tensor, and whether it is the very one of the step before."""
        if self.released or not torch.is_grad_enabled():
            return
        tensor = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)), None)
        if tensor is None:
            return
        self._shape = tuple(tensor.shape)
        same = self._input is not None and self._input() is tensor
        self.constant_inputs = self.constant_inputs + 1 if same else 0
        self._input = weakref.ref(tensor)

    def _gradients_ready(self, optimizer: Any) -> None:
        """Gradients are there and the weights have not changed yet."""
        task = self._task
        groups = optimizer.param_groups
        self._count_loss()
        if task.frozen:
            parameters = [p for group in groups for p in group["params"]]
            scale = getattr(optimizer, "grad_scale", None)
            scale = 1.0 if scale is None else float(scale)
            task.gradients(self._number_of(optimizer), [p.grad for p in parameters], scale)
            # An optimizer leaves a parameter without a gradient as it is, its decay included.
            for parameter in parameters:
                parameter.grad = None
        elif task.learning_rate_factor is not None:
            for group, rate in zip(groups, self.first_rates[id(optimizer)], strict=True):
                group["_autobatch_rate"] = group["lr"]
                group["lr"] = rate * task.learning_rate_factor

    def _count_loss(self) -> None:
        """Count a loss that was propagated since the last optimizer's step: this optimizer has it alone."""
        if self._backwards > self._backwards_of_optimizers:
            self._losses_apart += 1
        self._backwards_of_optimizers = self._backwards

    def _number_of(self, optimizer: Any) -> int:
        return next(place for place, seen in enumerate(self.optimizers) if seen is optimizer)

    def after_step(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            if "_autobatch_rate" in group:
                group["lr"] = group.pop("_autobatch_rate")
        if optimizer is self.primary:
            self.step_ended()

    # Steps and tasks

    def size_of(self, step: Step) -> int | None:
        """Samples of each batch of the step; None where they differ or where no loader gave any."""
        sizes = {size for size in step.sizes if size}
        if len(sizes) == 1:
            return sizes.pop()
        has_rows = not step.sizes and len(step.shape) > self._dimension
        return step.shape[self._dimension] if has_rows else None

    def step_ended(self) -> None:
        if self.released or not self._link.is_mine:
            return
        if self._task.waits_for_device:
            synchronize()
        now = time.perf_counter()
        self.steps += 1
        sizes, other_fetches = self._count_fetches()
        step = Step(
            seconds=0.0 if self._last is None else now - self._last,
            sizes=sizes,
            backwards=self._backwards,
            load_seconds=self._load_seconds,
            clean=self._clean and self._last is not None,
            losses=tuple(self._losses),
            shape=self._shape,
            losses_apart=self._losses_apart,
            other_fetches=other_fetches,
        )
        self._clear()
        self._task.take(step)
        if self._task.done:
            self._finish()
        self._last = time.perf_counter()

    def _finish(self) -> None:
        """Send the task's result, and wait for the next one."""
        self._send_result()
        while not self.released and self._task.done:
            self._obey(self._link.receive())

    def _send_result(self, *, ended: bool = False) -> None:
        if isinstance(self._task, Observe):
            self._link.send("observed", ended=ended, **facts.of_first_steps(self, self._task.taken))
        else:
            self._link.send("result", ended=ended, **self._task.result())

    def _obey(self, order: dict[str, Any]) -> None:
        what = order["do"]
        if what == "release":
            self.released = True
        elif what == "end":
            self._end()
        elif what == "evaluate":
            self._cuts_epoch = True
            self._task = Evaluate()
        elif what == "save":
            snapshot.save(order["snapshot"], self.optimizers, self.roots)
            self._link.send("result", ended=False)
        elif what == "restore":
            self.restore(order["snapshot"])
            self._link.send("result", ended=False)
        else:
            size = order["batch_size"]
            self._dimension = order["dimension"]
            if order.get("in_place") and (self.loader is None or not loaders.set_size(self.loader, size)):
                self._link.send("result", ended=False, immovable=True)
                return
            kinds: dict[str, Any] = {"measure": Measure, "noise": Noise, "train": Train}
            self._task = kinds[what](self, order)

    def restore(self, path: str) -> None:
        """Put the saved state of the training back."""
        snapshot.restore(path, self.optimizers, self.roots)

    def script_ended(self) -> None:
        """Send the steps so far: the script has ended."""
        if not self.released and self._link.is_mine:
            if isinstance(self._task, Observe) and self.steps == 0:
                self._link.send("no_steps", backwards=self._own_updates.backwards)
            else:
                self._send_result(ended=True)

    def _end(self) -> None:
        """End the process at once: nothing of the script's own end may run."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _rate(group: dict[str, Any]) -> float:
    """The learning rate that a schedule is made for: its first step may be that of a warm-up."""
    named = (group[name] for name in ("max_lr", "initial_lr", "lr") if name in group)
    return float(next(named))
