"""A compiled Keras model in training: the step of `fit`, the loss alone, the gradient alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autobatch.records.errors import TargetError
from autobatch.records.workload import StepCount
from autobatch.workload.batches import to_device
from autobatch.workload.keras import detection
from autobatch.workload.keras.optimizer import FollowedOptimizer

# The default of `fit`.
BATCH_SIZE = 32


class CompiledModel:
    """Trains a Keras model with its compiled optimizer, loss and metrics.

    `has_train_step`: the model overrides `train_step`, which hides its gradients.
    """

    def __init__(self, model: Any, device: str, example: Any) -> None:
        """`example`: a batch, from which a model without weights gets them.

        Raises TargetError where the compiled optimizer can't be followed.
        """
        import keras

        # Keras makes its tensors on the device of this scope, for the rest of the process.
        self._scope = keras.device(device)
        self._scope.__enter__()
        self._model = model
        self._unpack: Callable[[Any], tuple[Any, Any, Any]] = keras.utils.unpack_x_y_sample_weight
        self._call_knows_training = _takes(model.call, "training")
        self._loss_knows_training = _takes(model.compute_loss, "training")
        self.has_train_step = type(model).train_step is not keras.Model.train_step
        with torch.no_grad():
            # Also for a built model: a layer of it may be unbuilt.
            self._outputs(self._unpack(to_device(example, device))[0], training=False)
        self.optimizer = FollowedOptimizer(model)
        self.optimizer.move_to(device)
        model.make_train_function()

    @property
    def loss_name(self) -> str:
        return _name_of(self._model.loss)

    @property
    def parameters(self) -> int:
        return int(self._model.count_params())

    @property
    def schedule(self) -> tuple[StepCount, ...]:
        """The step counts of the compiled learning-rate schedule."""
        schedule = self._model.optimizer.get_config().get("learning_rate")
        inner = schedule.get("config") if isinstance(schedule, Mapping) else None
        return tuple(
            StepCount(name=name, steps=value)
            for name, value in (inner or {}).items()
            if name.endswith("_steps") and isinstance(value, int) and value > 0
        )

    @property
    def drifting(self) -> list[torch.Tensor]:
        """Tensors that a forward pass changes, such as the statistics of batch normalisation."""
        layers = self._model._flatten_layers()
        frozen = {id(v) for layer in layers if not layer.trainable for v in layer.weights}
        trained = {id(variable) for variable in self._model.trainable_variables}
        return [v.value for v in self._model.variables if id(v) not in frozen | trained]

    def step(self, batch: Any) -> torch.Tensor | None:
        """One training step, metrics included; returns the loss as `fit` reports it, if it does."""
        self.optimizer.carry_rates()
        logs = self._model.train_function((batch,))
        loss = logs.get("loss") if isinstance(logs, Mapping) else None
        # Keras gives numbers in place of tensors up to 3.13.
        return torch.as_tensor(loss).detach() if isinstance(loss, (torch.Tensor, float)) else None

    def loss(self, batch: Any) -> torch.Tensor:
        """The compiled loss of a batch, regularisers included, in the mode that the model is in."""
        x, y, sample_weight = self._unpack(batch)
        training = bool(self._model.training)
        outputs = self._outputs(x, training=training)
        mode = {"training": training} if self._loss_knows_training else {}
        loss = self._model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, **mode)
        return torch.as_tensor(loss)

    def backward(self, batch: Any) -> torch.Tensor:
        """The loss of a batch, its gradient left in the parameters."""
        loss = self.loss(batch)
        self.optimizer.scaled(loss).backward()
        scale = float(self.optimizer.scaled(torch.ones(())))
        for variable in self._model.trainable_variables if scale != 1 else ():
            if variable.value.grad is not None:
                variable.value.grad /= scale
        return loss

    def _outputs(self, inputs: Any, *, training: bool) -> Any:
        return self._model(inputs, training=training) if self._call_knows_training else self._model(inputs)


def open_model(
    model: Any, device: str, given: Mapping[str, Any], example: Callable[[], Any]
) -> CompiledModel | None:
    """A compiled Keras model that is to be trained as such; None for any other model.

    `given`: the other parts of the target, by the names of Parts. Raises TargetError for a model that is not
    compiled, unless there is a training step that needs no compiled loss, and where a loss, an optimizer or a
    step is given beside the compiled ones.
    """
    if not detection.is_model(model):
        return None
    others = [name for name, value in given.items() if value is not None and not _belongs(value, model)]
    if not model.compiled or model.optimizer is None:
        if "training_step" in others or "step" in others:
            return None
        raise TargetError(
            "the Keras model is not compiled",
            code="keras_not_compiled",
            facts=(f"it is a {type(model).__name__} without optimizer and loss",),
            hint='call `model.compile(optimizer="adam", loss=...)` with what you train with',
        )
    if others:
        raise TargetError(
            "the Keras model is compiled with a loss and an optimizer of its own",
            code="keras_two_losses",
            facts=(f"given as well: {', '.join(f'`{name}`' for name in others)}",),
            hint="leave these out, or give a model that is not compiled, with a `training_step`",
        )
    return CompiledModel(model, device, example())


def _belongs(value: Any, model: Any) -> bool:
    """True for the optimizer or the loss that the model was compiled with: a file may name it."""
    return value is getattr(model, "optimizer", None) or value is model.loss


def _takes(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _name_of(loss: Any) -> str:
    if isinstance(loss, str):
        return loss
    if isinstance(loss, Mapping):
        return ", ".join(map(_name_of, loss.values()))
    if isinstance(loss, (list, tuple)):
        return ", ".join(map(_name_of, loss))
    if loss is None:
        return "the model's own"
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__))
