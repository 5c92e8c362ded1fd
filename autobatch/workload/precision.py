"""The arithmetic of a training step: full precision, or autocast with or without scaled gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from autobatch.records.errors import DeviceError, TargetError
from autobatch.records.limits import Precision

_DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
# torch's default. The scale halves with each step that has to be skipped.
FIRST_SCALE = 2.0**16
# Down to a scale below which the smallest numbers of fp16 are larger than any gradient.
MOST_SKIPS = 40


class Arithmetic:
    """The forward pass, the backward pass and the optimizers' steps of one precision on one device.

    `scales` is True where the loss is multiplied by a scale that training adjusts, as fp16 needs. A device
    that has no gradient scaler trains in fp16 without one. `skipped_steps` counts the steps without effect,
    since a gradient overflowed.
    """

    def __init__(self, precision: Precision, device: str) -> None:
        """Raises DeviceError where the device has no such precision."""
        self.precision = precision
        self.skipped_steps = 0
        self._set_up(device, FIRST_SCALE)

    def move_to(self, device: str) -> None:
        """Computes on another device from here on, at a scale of 1, so that no step is skipped.

        Raises DeviceError where that device has no such precision.
        """
        self._set_up(device, 1.0)

    def _set_up(self, device: str, first_scale: float) -> None:
        precision = self.precision
        self._kind = torch.device(device).type
        self._dtype = _DTYPES.get(precision)
        if self._dtype is not None:
            _require(precision, self._dtype, device)
        scaled = precision is Precision.FP16 and _has_scaler(device)
        self._scaler = torch.amp.GradScaler(self._kind, init_scale=first_scale, enabled=scaled)
        self.scales = scaled

    def autocast(self) -> torch.autocast:
        """The context of a forward pass with its loss."""
        return torch.autocast(self._kind, self._dtype or torch.bfloat16, enabled=self._dtype is not None)

    def backward(self, loss: torch.Tensor) -> None:
        """The gradients of the loss, times the scale where there is one."""
        self._scaler.scale(loss).backward()

    def step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Steps the optimizers, unless a gradient overflowed: that counts in `skipped_steps`."""
        for optimizer in optimizers:
            self._scaler.step(optimizer)
        if not self._rescaled():
            self.skipped_steps += 1

    def find_scale(self, step: Callable[[], torch.Tensor | None]) -> None:
        """Trains until a step is not skipped, or its loss is not finite. Raises TargetError if none is."""
        for _ in range(MOST_SKIPS):
            before = self.skipped_steps
            loss = step()
            if self.skipped_steps == before or (loss is not None and not math.isfinite(float(loss))):
                return
        raise gradient_not_finite()

    def unscale(self, optimizers: Sequence[torch.optim.Optimizer]) -> bool:
        """Takes the scale out of the gradients of a backward pass; False where a gradient overflowed."""
        if not self.scales:
            return True
        for optimizer in optimizers:
            self._scaler.unscale_(optimizer)
        return self._rescaled()

    def state(self) -> dict[str, Any]:
        """The state that training changes."""
        return self._scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Puts a `state` back."""
        self._scaler.load_state_dict(state)

    def _rescaled(self) -> bool:
        """Fits the scale to the last gradients; False where it fell, since a gradient overflowed."""
        before = self._scaler.get_scale()
        self._scaler.update()
        return self._scaler.get_scale() >= before


def gradient_not_finite() -> TargetError:
    """The error for fp16 gradients that overflow at every loss scale."""
    return TargetError(
        "in fp16 the gradients are not finite, however small the loss is scaled",
        code="gradient_not_finite",
        facts=(f"after {MOST_SKIPS} steps, the scale halved with each",),
        hint="use `bf16`, whose numbers reach as far as those of fp32",
    )


def _require(precision: Precision, dtype: torch.dtype, device: str) -> None:
    reason = _why_no_autocast(dtype, device)
    if reason:
        others = ", ".join(f"`{other}`" for other in Precision if other is not precision)
        raise DeviceError(
            f"`{precision}` can't be used on `{device}`",
            code="no_such_precision",
            facts=(reason,),
            hint=f"choose one of {others} with `--precision`, or another device",
        )


def _why_no_autocast(dtype: torch.dtype, device: str) -> str:
    """The reason why matrix products have no such dtype; empty where they have. torch may only warn."""
    kind = torch.device(device).type
    if not torch.amp.is_autocast_available(kind):
        return f"torch has no autocast for `{kind}`"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            left = torch.ones(8, 8, device=device, requires_grad=True)
            with torch.autocast(kind, dtype):
                product = left @ left
            product.sum().backward()
        except Exception as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
    if product.dtype is dtype:
        return ""
    return (
        " ".join(str(warning.message).strip().splitlines()[0] for warning in caught)
        or f"it computes {product.dtype}"
    )


def _has_scaler(device: str) -> bool:
    """True where gradients can be checked and unscaled on the device."""
    weight = torch.ones(1, device=device, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler(torch.device(device).type)
    try:
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    except Exception:
        return False
    return scaler.is_enabled()
