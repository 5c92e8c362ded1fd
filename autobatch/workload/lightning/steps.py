"""The steps, the evaluation and the optimizers of a LightningModule, called from outside a `fit`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autobatch.workload.lightning.detection import overrides
from autobatch.workload.parts import Parts

_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_BEGINNING = (
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_validation_start",
    "on_validation_epoch_start",
)
# Hooks that a training calls and a measured step does not.
_LEFT_OUT = ("backward", "optimizer_step", "configure_gradient_clipping", "lr_scheduler_step")


class Steps:
    """The steps of a LightningModule with the hooks around them, outside a `fit`."""

    def __init__(self, module: Any, trainer: Any, parts: Parts) -> None:
        self.automatic = bool(module.automatic_optimization)
        self._module = module
        self._trainer = trainer
        self._index = 0
        self._has_begun = False
        self._is_judged = parts.val_dataset is not None and overrides(module, "validation_step")
        self._scheduled = False
        self._ends_batches = overrides(module, "on_train_batch_end")
        self._last: tuple[Any, Any] | None = None
        self._takes_index = {
            name: _takes_index(getattr(module, name)) for name in ("training_step", "validation_step")
        }
        owners = [owner for owner in (trainer.datamodule, module) if owner is not None]
        self._transfers = {
            name: next((owner for owner in owners if overrides(owner, name)), None)
            for name in _TRANSFER_HOOKS
        }

    def make_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """The optimizers of `configure_optimizers`, checked by Lightning. Raises Lightning's errors."""
        strategy = self._trainer.strategy
        strategy._root_device = self._module.device
        strategy.setup_optimizers(self._trainer)
        for config in strategy.lr_scheduler_configs:
            self._scheduled = True
            _to_peak(getattr(config.scheduler, "optimizer", None))
        if self.automatic:
            for optimizer in strategy.optimizers:
                optimizer.register_step_pre_hook(self._before_step)
                optimizer.register_step_post_hook(self._after_step)
        return list(strategy.optimizers)

    def training_step(self, model: nn.Module, batch: Any) -> Any:
        """The loss of `training_step`, before any backward."""
        batch = self._begin(batch)
        outputs = self._called("training_step", batch)
        if self._ends_batches:
            self._last = outputs, batch
        self._index += 1
        return _loss_in(outputs)

    def step(self, model: nn.Module, optimizers: Any, batch: Any) -> Any:
        """A whole step of a module that optimizes by hand; its loss, where it returns one."""
        batch = self._begin(batch)
        outputs = self._called("training_step", batch)
        self._module.on_train_batch_end(outputs, batch, self._index)
        self._index += 1
        return _loss_in(outputs)

    def evaluation_step(self, model: nn.Module, batch: Any) -> Any:
        """The loss of `validation_step`, or of `training_step` where that returns none."""
        batch = self._transferred(batch)
        if self._is_judged:
            loss = _loss_in(self._called("validation_step", batch))
            if loss is not None:
                return loss
            # A step that only logs has no loss in later calls either.
            self._is_judged = False
        return _loss_in(self._called("training_step", batch))

    def remarks(self) -> tuple[str, ...]:
        """Notes on the parts of the module's training that the measured steps leave out."""
        left_out = [f"`{name}`" for name in _LEFT_OUT if overrides(self._module, name)]
        notes = [f"the measured steps don't call your {', '.join(left_out)}"] if left_out else []
        if self._scheduled:
            notes.append("learning rate: your schedule's highest, since its steps are not followed")
        return tuple(notes)

    def _begin(self, batch: Any) -> Any:
        """The batch after the hooks at the beginning of the training and of the batch."""
        if not self._has_begun:
            self._has_begun = True
            for name in _BEGINNING:
                getattr(self._module, name)()
        batch = self._transferred(batch)
        self._module.on_train_batch_start(batch, self._index)
        return batch

    def _transferred(self, batch: Any) -> Any:
        """The batch after the hooks by which the module or the data module transfers it to the device."""
        for name, owner in self._transfers.items():
            if owner is not None:
                arguments = (self._module.device, 0) if name == "transfer_batch_to_device" else (0,)
                batch = getattr(owner, name)(batch, *arguments)
        return batch

    def _called(self, name: str, batch: Any) -> Any:
        method = getattr(self._module, name)
        return method(batch, self._index) if self._takes_index[name] else method(batch)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._module.on_after_backward()
        self._module.on_before_optimizer_step(optimizer)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._module.on_before_zero_grad(optimizer)
        if self._last is not None:
            (outputs, batch), self._last = self._last, None
            self._module.on_train_batch_end(outputs, batch, self._index - 1)


def _takes_index(method: Any) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()]
    return len(kinds) > 1 or inspect.Parameter.VAR_POSITIONAL in kinds


def _loss_in(outputs: Any) -> Any:
    return outputs.get("loss") if isinstance(outputs, Mapping) else outputs


def _to_peak(optimizer: Any) -> None:
    """Sets the parameter groups to the highest rate of their schedule, since a warm-up begins near zero."""
    for group in getattr(optimizer, "param_groups", ()):
        if "initial_lr" in group:
            group["lr"] = group.get("max_lr", group["initial_lr"])
