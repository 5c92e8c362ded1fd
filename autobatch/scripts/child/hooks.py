"""The hooks in torch and Keras that a Watch hears from."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from . import loaders
from .keras_optimizer import KerasOptimizer
from .watch import Watch


def install(watch: Watch, apply: dict[str, Any] | None) -> None:
    """Hook loaders, gradients, clipping and optimizer steps. Nothing here draws a random number."""
    loaders.install(watch, apply)
    register_optimizer_step_pre_hook(_before(watch))
    register_optimizer_step_post_hook(_after(watch))
    _hook_backward(watch)
    _hook_clipping(watch)
    _hook_schedules(watch)


def _before(watch: Watch) -> Any:
    def hook(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if watch.released:
            return None
        # torch gives the optimizer itself as the first argument.
        in_args = len(args) > 1
        wrapped = watch.before_step(optimizer, args[1] if in_args else kwargs.get("closure"))
        if wrapped is None:
            return None
        if in_args:
            return (args[0], wrapped, *args[2:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    return hook


def _after(watch: Watch) -> Any:
    def hook(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not watch.released:
            watch.after_step(optimizer)

    return hook


def _hook_backward(watch: Watch) -> None:
    backward: Any = torch.Tensor.backward

    def hooked(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not watch.released:
            watch.backward(self)
        return backward(self, *args, **kwargs)

    torch.Tensor.backward = hooked  # type: ignore[method-assign]


def _hook_clipping(watch: Watch) -> None:
    """The noise scale is that of gradients as they are: while they are measured, none is clipped."""
    by_norm, by_value = torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_

    def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        return by_norm(parameters, float("inf") if watch.freezes else max_norm, *args, **kwargs)

    def clip_grad_value_(*args: Any, **kwargs: Any) -> None:
        if not watch.freezes:
            by_value(*args, **kwargs)

    modules: tuple[Any, ...] = (torch.nn.utils, torch.nn.utils.clip_grad)
    for module in modules:
        module.clip_grad_norm_ = clip_grad_norm_
        module.clip_grad_value_ = clip_grad_value_


def _hook_schedules(watch: Watch) -> None:
    """While sizes are measured, learning rates stay: some schedules fail beyond their last step."""
    scheduler: Any = LRScheduler
    step = scheduler.step

    def hooked(self: Any, *args: Any, **kwargs: Any) -> None:
        if not watch.is_measuring:
            step(self, *args, **kwargs)

    scheduler.step = hooked


def hook_keras(watch: Watch, module: Any) -> None:
    """Hook Keras' BaseOptimizer.apply, given the module that defines it."""
    apply = module.BaseOptimizer.apply
    optimizers: dict[int, KerasOptimizer] = {}

    def hooked(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        if watch.released:
            return apply(self, grads, trainable_variables)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        if id(self) not in optimizers:
            optimizers[id(self)] = KerasOptimizer(self, trainable_variables or self._trainable_variables)
        optimizer = optimizers[id(self)]
        optimizer.refresh()
        watch.before_step(optimizer, None)
        result = None
        if not watch.freezes:
            with optimizer.rate_applied():
                result = apply(self, grads, trainable_variables)
        watch.after_step(optimizer)
        return result

    module.BaseOptimizer.apply = hooked
