"""Compiled Keras models for tests, and the trainer that a worker makes of them."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
import torch

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import Sequential, layers
from keras.layers import Dense
from keras.regularizers import l2

from autobatch import AutobatchError
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer


def arrays(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """One feature from 0 to 1, and its class, one label in twenty wrong."""
    numbers = np.random.default_rng(0)
    features = numbers.random((count, 1), dtype=np.float32)
    return features, ((features[:, 0] > 0.6) ^ (numbers.random(count) < 0.05)).astype(np.int64)


def beginner() -> Any:
    """The model as it stands in many a text."""
    model = Sequential(
        [
            Dense(16, input_shape=(1,), activation="relu"),
            Dense(32, activation="relu", kernel_regularizer=l2(0.01)),
            Dense(2, activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=0.001),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def drifting_model(optimizer: Any = "adam", **compiled: Any) -> Any:
    """All that a forward pass changes: running statistics, a seeded dropout, one that isn't."""
    model = Sequential(
        [
            layers.Input((1,)),
            Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=3),
            layers.Dropout(0.1),
            Dense(2, activation="softmax"),
        ]
    )
    model.compile(optimizer, loss=compiled.pop("loss", "sparse_categorical_crossentropy"), **compiled)
    return model


def trainer(model: Any, data: Any = None, **rest: Any) -> Trainer:
    parts = Parts(model=model, dataset=data, **rest)
    return Trainer(parts, open_samples(arrays() if data is None else data), None, "cpu")


def state(model: Any) -> dict[str, Any]:
    """All that a training could change: values by path, flags, metrics, gradients, random states, names."""
    variables = [*model.variables, *model.optimizer.variables]
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    return {
        "values": [(v.path, v.value.detach().clone().numpy().tobytes()) for v in variables],
        "same": [id(v.value) for v in variables],
        "metrics": [(v.path, v.value.detach().clone().numpy().tobytes()) for v in metrics],
        "gradients": [v.value.grad is None for v in model.trainable_variables],
        "flags": [(layer.name, layer.trainable, layer.built) for layer in model.layers],
        "modes": [module.training for module in model.modules()],
        "compiled": (model.compiled, id(model.optimizer), id(model.loss), model.stop_training),
        "random": (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()),
        "keras": (keras.config.floatx(), keras.config.backend(), keras.config.dtype_policy().name),
        "environment": dict(os.environ),
    }


def refused(model: Any, data: Any = None, **rest: Any) -> AutobatchError:
    with pytest.raises(AutobatchError) as raised:
        trainer(model, data, **rest)
    return raised.value
