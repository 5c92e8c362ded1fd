"""The loop of a compiled Keras model."""

from __future__ import annotations

import os
from typing import Any

import torch

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras.layers import Dense

from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer
from tests.workload.keras.models import arrays, beginner, trainer


def test_a_train_step_of_its_own_is_measured_without_a_check():
    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

        def train_step(self, data: Any) -> dict[str, Any]:
            self.zero_grad()
            loss = self(data[0]).square().mean()
            loss.backward()
            with torch.no_grad():
                self.optimizer.apply([v.value.grad for v in self.trainable_variables])
            return {"loss": loss}

    model = Own()
    model.compile("sgd", loss="mse")
    one = trainer(model)
    first, second = (float(one.step(one.load(16, 0))) for _ in range(2))
    assert second < first
    assert "train_step" in one.why_no_check
    assert one.evaluate(one.load(4, 0)) is None


def test_a_model_without_keras_is_trained_as_before():
    model = torch.nn.Linear(1, 2)
    one = Trainer(Parts(name="test", model=model), open_samples(arrays()), None, "cpu")
    assert one.describe().batch_size is None
    assert one.frameworks == ()
    assert one.drifting == []


def test_the_loop_is_keras_own_fit() -> None:
    model = beginner()
    one = trainer(model)
    workload = one.describe()
    assert workload.batch_size == 32
    assert one.frameworks == ("keras",)
    assert workload.loss == "sparse_categorical_crossentropy"
    assert workload.parameters == model.count_params()
    assert one.why_no_check == ""
