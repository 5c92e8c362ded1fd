"""A Keras model on its way to the worker: weights, optimizer state and user code arrive."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import Sequential, layers, ops
from keras.layers import Dense

import autobatch
from autobatch import AutobatchError, Limits
from autobatch.workload.keras.archive import Archive
from tests.workload.keras.models import arrays, beginner, drifting_model

ROOT = Path(__file__).resolve().parents[3]


def test_a_name_that_keras_gives_is_the_same_after_find_has_packed_a_model():
    model = beginner()
    first = int(Dense(1).name.rpartition("_")[2])
    Archive(model)
    assert int(Dense(1).name.rpartition("_")[2]) == first + 1


@keras.saving.register_keras_serializable("mine")
def own_metric(truth: Any, output: Any) -> Any:
    return ops.mean(ops.abs(truth - output))


def test_code_that_only_the_caller_has_goes_with_the_model():
    class OwnLayer(layers.Layer):  # type: ignore[misc]
        def __init__(self, units: int, **rest: Any) -> None:
            super().__init__(**rest)
            self.units = units
            self.dense = Dense(units, activation=own_activation)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "units": self.units}

    def own_activation(inputs: Any) -> Any:
        return ops.tanh(inputs)

    def own_loss(truth: Any, output: Any) -> Any:
        return ops.mean(ops.square(truth - output))

    model = Sequential([layers.Input((3,)), OwnLayer(4), Dense(1, activation=own_activation)])
    model.compile("adam", loss=own_loss, metrics=[own_metric])
    data = (np.ones((8, 3), np.float32), np.ones((8, 1), np.float32))
    model.fit(*data, verbose=0)
    pickled = cloudpickle.dumps(Archive(model))
    expected = model.evaluate(*data, verbose=0)
    program = (
        "import sys, pickle, numpy as np; model = pickle.load(sys.stdin.buffer); "
        "print(model.evaluate(np.ones((8, 3)), np.ones((8, 1)), verbose=0), int(model.optimizer.iterations))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], input=pickled, cwd=ROOT, capture_output=True, check=True
    )
    assert ended.stdout.decode().split() == [*str(expected).split(), "1"]


def test_weights_and_optimizer_arrive_bit_by_bit():
    model = drifting_model(keras.optimizers.Adam(0.01))
    model.fit(*arrays(), verbose=0)
    arrived = pickle.loads(cloudpickle.dumps(Archive(model)))
    for one, other in zip(model.optimizer.variables, arrived.optimizer.variables, strict=True):
        assert torch.equal(one.value, other.value), one.path
    for one, other in zip(model.get_weights(), arrived.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_lambda_that_would_lose_its_globals_is_refused():
    model = Sequential([layers.Input((1,)), Dense(1)])
    model.compile("adam", loss=lambda truth, output: ops.mean(truth - output))
    with pytest.raises(AutobatchError) as raised:
        Archive(model)
    assert "`ops`" in raised.value.facts[0]


def test_a_subclass_that_keras_cannot_make_again_says_how_to_send_it():
    class Closed(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = Dense(2, activation="softmax")

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    def build() -> Any:
        model = Closed()
        model.compile("adam", loss="sparse_categorical_crossentropy")
        return model

    model = build()
    model(arrays()[0])
    pickled = cloudpickle.dumps(Archive(model))
    with pytest.raises(AutobatchError) as raised:
        pickle.loads(pickled)
    assert raised.value.code == "keras_not_rebuilt"
    assert "find(build_model, (x, y))" in raised.value.hint
    found = autobatch.find(build, arrays(), limits=Limits(max_batch=2, budget_seconds=1, check=False))
    assert found.workload.model == "Closed"
