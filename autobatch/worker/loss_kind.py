"""Measures how the loss follows from the samples of a batch: halves beside the whole, at the first weights.

Batch normalization uses the statistics of the whole for its halves, and dropout modules drop nothing:
neither is a part of the loss. Batches are cut in half after they were collated, where that is possible, so
that both sides have the same padding and the same augmentation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import sqrt
from random import Random
from typing import Any

import numpy
import torch

from autobatch.decision.constants import TOLERANCE
from autobatch.decision.loss_kind import Passes, exact_kind, likely_kind
from autobatch.devices.torch_internals import drops_out, normalizes_over_batch, tree_leaves, tree_map
from autobatch.engines import messages
from autobatch.records.check import LossKind
from autobatch.records.errors import AutobatchError, TargetError
from autobatch.records.limits import Precision
from autobatch.worker.gradients import GradientSketch, gradient_of, unchanged
from autobatch.worker.session_setup import seed_everything
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error

# Batches where a single batch does not decide.
_BATCHES = 16
_DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
# Digits of the products in TF32, which convolutions on CUDA use for fp32.
_TF32_EPS = 2.0**-10


def run(trainer: Trainer, start: Snapshot, command: messages.MeasureLossKind) -> messages.LossForm:
    """The kind of loss at the weights of `start`, which the trainer has at both ends.

    A failure is its `detail`. Where all losses of a batch are not finite, such as those of samples without a
    label, the next batch is twice as large.
    """
    comparison = _Comparison(trainer, command)
    try:
        start.restore()
        return comparison.run()
    except AutobatchError as failure:
        return _unknown(failure.message)
    except (Exception, SystemExit, KeyboardInterrupt) as failure:
        return _unknown(describe_error(failure))
    finally:
        start.restore()


class _Comparison:
    def __init__(self, trainer: Trainer, command: messages.MeasureLossKind) -> None:
        self._trainer = trainer
        self._command = command
        self._deadline = time.perf_counter() + command.seconds
        self._sketch = None if trainer.hides_gradient else GradientSketch(trainer, command.seed)
        self._losses: list[float] = []
        self._rows: list[torch.Tensor] = []

    def run(self) -> messages.LossForm:
        """Raises the errors of the user's code, and TargetError where the loop hides its loss."""
        size = self._command.half_size
        self._compare(size, 0)
        while not (passes := self._passes()).are_finite:
            size *= 2
            if 2 * size > self._command.most_samples:
                return _unknown("the loss is not finite")
            self._losses, self._rows = [], []
            self._compare(size, 0)
        tolerance = _tolerance(self._trainer)
        kind = exact_kind(passes, tolerance)
        if kind is not None:
            return messages.LossForm(kind=kind)
        for number in range(1, _BATCHES):
            if time.perf_counter() > self._deadline:
                break
            self._compare(size, number)
        passes = self._passes()
        if not passes.are_finite:
            return _unknown("the loss is not finite")
        kind = likely_kind(passes, tolerance)
        return _unknown("noise hides it") if kind is LossKind.UNKNOWN else messages.LossForm(kind=kind)

    def _compare(self, half_size: int, number: int) -> None:
        """Adds the passes of one more batch, of twice `half_size` samples."""
        seed = self._command.seed + number
        batches = _batches(self._trainer, half_size, seed)
        with unchanged(self._trainer), _steady(self._trainer, batches[2], seed):
            for batch in batches:
                self._pass(batch, seed)
            self._pass(batches[0], seed + _BATCHES)

    def _passes(self) -> Passes:
        """Everything that was measured so far."""
        products = None
        if self._rows:
            rows = torch.stack(self._rows).double()
            products = tuple(map(tuple, (rows @ rows.T).tolist()))
        return Passes(losses=tuple(self._losses), products=products)

    def _pass(self, batch: Any, seed: int) -> None:
        seed_everything(seed)
        with unchanged(self._trainer):
            if self._sketch is None:
                loss = _step_without_effect(self._trainer, batch)
            else:
                loss = self._trainer.backward(batch)
                row = self._sketch.row([gradient_of(p) for p in self._sketch.parameters])
                self._rows.append(row.cpu())
        self._losses.append(float(loss))


def _step_without_effect(trainer: Trainer, batch: Any) -> torch.Tensor:
    """The loss that the user's step returns. Its optimizers step at a learning rate of 0."""
    trainer.scale_learning_rates(0.0)
    loss = trainer.step(batch)
    if loss is None or loss.numel() != 1:
        raise TargetError("your `step` returns no loss", code="no_loss")
    return loss


@contextmanager
def _steady(trainer: Trainer, batch: Any, seed: int) -> Iterator[None]:
    """A context in which modules neither drop out nor normalize by another batch than this."""
    modules = list(trainer.model.modules())
    norms: list[Any] = [module for module in modules if normalizes_over_batch(module) and module.training]
    drops = [module for module in modules if drops_out(module) and module.training]
    kept = [(norm, norm.momentum, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            _keep_statistics(norm)
        if norms:
            seed_everything(seed)
            _forward_and_back(trainer, batch)
        for module in (*norms, *drops):
            module.training = False
        yield
    finally:
        for module in (*norms, *drops):
            module.training = True
        for norm, momentum, tracks in kept:
            norm.momentum, norm.track_running_stats = momentum, tracks


def _keep_statistics(norm: Any) -> None:
    """Lets a batch normalization replace its statistics by those of the next batch."""
    reference = next(iter(norm.parameters()), None)
    if norm.running_mean is None:
        device = None if reference is None else reference.device
        norm.running_mean = torch.zeros(norm.num_features, device=device)
        norm.running_var = torch.ones(norm.num_features, device=device)
    norm.momentum, norm.track_running_stats = 1.0, True


def _forward_and_back(trainer: Trainer, batch: Any) -> None:
    if trainer.hides_gradient:
        _step_without_effect(trainer, batch)
    else:
        trainer.backward(batch)


def _batches(trainer: Trainer, half_size: int, seed: int) -> tuple[Any, Any, Any, Any]:
    """Both halves of a batch, the whole, and the first half twice."""
    size = 2 * half_size
    whole = trainer.load(size, seed)
    first, second = list(range(half_size)), list(range(half_size, size))
    if _can_be_cut(whole, size):
        return _cut(whole, first), _cut(whole, second), whole, _cut(whole, first + first)
    if trainer.dataset_size is None or trainer.dataset_size < size:
        raise TargetError("a batch of this data set can't be cut in half", code="no_rows")
    rows = Random(seed).sample(range(trainer.dataset_size), size)
    seed_everything(seed)
    halves = [trainer.load_rows(part) for part in (rows[:half_size], rows[half_size:])]
    # Samples that are augmented when they are read have to be augmented in the same way.
    seed_everything(seed)
    return halves[0], halves[1], trainer.load_rows(rows), trainer.load_rows(2 * rows[:half_size])


def _can_be_cut(batch: Any, size: int) -> bool:
    """True for tensors and arrays of `size` rows, in nested tuples, lists and mappings."""
    return all(
        all(_can_be_cut(value, size) for value in leaf.values())
        if isinstance(leaf, Mapping)
        else isinstance(leaf, (torch.Tensor, numpy.ndarray)) and leaf.ndim > 0 and len(leaf) == size
        for leaf in tree_leaves(batch)
    )


def _cut(batch: Any, rows: list[int]) -> Any:
    """These rows of a batch of tensors and arrays."""

    def cut(leaf: Any) -> Any:
        # A mapping of a class that torch does not know is a leaf to it.
        if isinstance(leaf, Mapping):
            return {key: _cut(value, rows) for key, value in leaf.items()}
        return leaf[rows]

    return tree_map(cut, batch)


def _tolerance(trainer: Trainer) -> float:
    """The root of the precision: rounding is below it, where sums of another order differ in their digits."""
    weights = [p for p in trainer.model.parameters() if p.is_floating_point() or p.is_complex()]
    eps = max(torch.finfo(weight.dtype).eps for weight in weights)
    asked = _DTYPES.get(trainer.arithmetic.precision)
    if asked is not None:
        eps = max(eps, torch.finfo(asked).eps)
    on_cuda = weights[0].device.type == "cuda"
    if on_cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32):
        eps = max(eps, _TF32_EPS)
    return min(sqrt(eps), TOLERANCE)


def _unknown(detail: str) -> messages.LossForm:
    return messages.LossForm(kind=LossKind.UNKNOWN, detail=detail)
