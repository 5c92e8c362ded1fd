"""Chooses the training loop of a target. No other module tells the kinds of loop apart."""

from __future__ import annotations

from torch import nn

from autobatch.records.errors import TargetError
from autobatch.records.limits import Precision
from autobatch.workload.keras import compiled
from autobatch.workload.loops.keras_loop import KerasLoop
from autobatch.workload.loops.loss_loop import LossLoop
from autobatch.workload.loops.step_loop import StepLoop
from autobatch.workload.parts import Parts
from autobatch.workload.precision import Arithmetic
from autobatch.workload.samples import Samples
from autobatch.workload.training_loop import EnterPhase, TrainingLoop

# A compiled Keras model has these by itself, so that giving them as well is an error.
_KERAS_BRINGS = ("loss_fn", "optimizer", "make_optimizers", "training_step", "step")


def choose(
    parts: Parts,
    model: nn.Module,
    samples: Samples,
    device: str,
    arithmetic: Arithmetic,
    enter_phase: EnterPhase,
    *,
    ranks: int = 1,
    accumulates: bool = False,
) -> TrainingLoop:
    """The loop that trains `model`, which is on `device`. Raises TargetError where none can be meant."""
    given = {name: getattr(parts, name) for name in _KERAS_BRINGS}
    keras_model = compiled.open_model(model, device, given, samples.example)
    if keras_model is not None:
        _check_keras(parts.precision, ranks)
        samples.bulk_indexing = True
        return KerasLoop(parts, model, device, enter_phase, keras_model)
    if parts.step is not None:
        return StepLoop(parts, model, device, enter_phase, parts.step)
    return LossLoop(parts, model, samples, device, arithmetic, enter_phase, accumulates=accumulates)


def _check_keras(precision: Precision, ranks: int) -> None:
    """Raises TargetError for a precision or ranks that a Keras model can't be measured with."""
    if precision is not Precision.FP32:
        raise TargetError(
            f"`{precision}` can't be asked of a Keras model, which has a policy for it",
            code="own_precision",
            hint='leave it out, and call `keras.config.set_dtype_policy("mixed_bfloat16")` before you build '
            "the model",
        )
    if ranks > 1:
        raise TargetError(
            "a Keras model can't be measured on several ranks",
            code="keras_ranks",
            hint="measure it in one process, or train it with a `step` of your own",
        )
