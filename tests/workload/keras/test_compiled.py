"""A compiled Keras model trains as `fit` does: steps, losses, gradients, snapshots."""

from __future__ import annotations

import os
import pickle

import cloudpickle
import numpy as np
import pytest
import torch

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import Sequential, layers
from keras.layers import Dense

from autobatch.worker.gradients import has_batch_norm, measure_chunks
from autobatch.workload.keras.archive import Archive
from autobatch.workload.snapshot import Snapshot
from tests.workload.keras.models import beginner, drifting_model, refused, trainer


def test_a_step_is_what_train_on_batch_does():
    keras.utils.set_random_seed(0)
    ours, theirs = beginner(), beginner()
    theirs.set_weights(ours.get_weights())
    one = trainer(ours)
    for seed in range(3):
        batch = one.load(32, seed)
        ours.reset_metrics()
        loss = one.step(batch)
        theirs.reset_metrics()
        logs = theirs.train_on_batch(*batch, return_dict=True)
        assert float(loss) == logs["loss"]
    for mine, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert one.optimizer_steps == 3
    batch = one.load(64, 9)
    held_out = float(one.evaluate(batch))
    theirs.reset_metrics()
    assert held_out == pytest.approx(theirs.test_on_batch(*batch, return_dict=True)["loss"], abs=1e-6)


def test_the_gradient_is_that_of_the_compiled_loss_regularisers_included():
    model = beginner()
    one = trainer(model)
    batch = one.load(16, 0)
    one.backward(batch)
    kernel = model.layers[1].kernel.value
    whole = kernel.grad.clone()
    model.zero_grad()
    outputs = model(batch[0], training=True)
    bare = keras.losses.sparse_categorical_crossentropy(batch[1], outputs).mean()
    bare.backward()
    torch.testing.assert_close(whole - kernel.grad, 2 * 0.01 * kernel.detach())


def test_the_scaled_loss_of_half_precision_leaves_the_gradient_as_it_is():
    plain, scaling = drifting_model(), drifting_model()
    scaling.set_weights(plain.get_weights())
    scaling.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), loss=plain.loss)
    gradients = []
    for model in (plain, scaling):
        model.layers[2].rate = model.layers[3].rate = 0.0
        one = trainer(model)
        one.backward(one.load(16, 0))
        gradients.append(model.layers[0].kernel.value.grad)
    torch.testing.assert_close(*gradients)
    assert one.describe().optimizer == "Adam"


def test_a_snapshot_brings_back_weights_optimizer_statistics_seeds_and_rate():
    model = drifting_model(keras.optimizers.Adam(0.01), metrics=["accuracy"])
    one = trainer(model)
    one.step(one.load(8, 0))
    snapshot = Snapshot(one)
    runs = []
    for _ in range(2):
        snapshot.restore()
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
        one.scale_learning_rates(3.0)
        losses = [float(one.step(one.load(8, seed))) for seed in range(4)]
        assert float(model.optimizer.learning_rate) == pytest.approx(0.03)
        runs.append((losses, [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]))
    assert runs[0] == runs[1]


def test_the_noise_measurement_leaves_statistics_and_seeds_alone():
    model = drifting_model()
    one = trainer(model)
    assert has_batch_norm(model)
    before = [v.numpy().tobytes() for v in model.variables]
    measure_chunks(one, 8, 16, 0)
    assert [v.numpy().tobytes() for v in model.variables] == before
    one.step(one.load(8, 0))
    assert [v.numpy().tobytes() for v in model.variables] != before


def test_several_inputs_and_sample_weights_come_as_nested_arrays():
    first, second = layers.Input((3,), name="first"), layers.Input((2,), name="second")
    joined = layers.Concatenate()([first, second])
    model = keras.Model({"first": first, "second": second}, Dense(1)(joined))
    model.compile("sgd", loss="mse")
    numbers = np.random.default_rng(0)
    inputs = {"first": numbers.random((50, 3)), "second": numbers.random((50, 2))}
    data = (inputs, numbers.random((50, 1)), np.arange(50.0))
    one = trainer(model, data)
    rows = [7, 3]
    batch = one.load_rows(rows)
    np.testing.assert_allclose(batch[0]["first"], inputs["first"][rows], rtol=1e-6)
    assert batch[2].tolist() == [7.0, 3.0]
    expected = model.test_on_batch(inputs, data[1], sample_weight=data[2])
    assert float(one.evaluate(one.load_rows(range(50)))) == pytest.approx(float(expected), rel=1e-5)
    assert one.describe().dataset == "4 arrays"


def test_a_model_that_is_not_compiled_is_refused():
    model = pickle.loads(cloudpickle.dumps(Archive(Sequential([layers.Input((1,)), Dense(1)]))))
    error = refused(model)
    assert error.code == "keras_not_compiled"
    assert "model.compile(" in error.hint


def test_what_a_compiled_model_brings_is_not_given_twice():
    model = drifting_model()
    error = refused(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), loss_fn=torch.nn.MSELoss())
    assert error.code == "keras_two_losses"
    assert error.facts == ("given as well: `loss_fn`, `optimizer`",)
