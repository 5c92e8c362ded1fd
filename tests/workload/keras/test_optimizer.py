"""A compiled Keras optimizer in the form of a torch optimizer: rates, schedules, refusals."""

from __future__ import annotations

import os

import pytest

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import keras

from autobatch.decision.critical_batch import learning_rate_power
from autobatch.workload.snapshot import Snapshot
from tests.workload.keras.models import drifting_model, refused, trainer


def test_the_rates_of_a_schedule_are_multiplied_and_its_steps_told():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
    model = drifting_model(keras.optimizers.SGD(schedule, momentum=0.9))
    one = trainer(model)
    workload = one.describe()
    assert workload.learning_rate is None
    assert [(step.name, step.steps) for step in workload.schedule] == [("decay_steps", 1)]
    assert [(decay.name, decay.value) for decay in workload.decays] == [("momentum", 0.9)]
    snapshot = Snapshot(one)
    one.scale_learning_rates(2.0)
    rates = []
    for seed in range(3):
        one.step(one.load(4, seed))
        rates.append(float(model.optimizer.learning_rate))
    assert rates == pytest.approx([0.1, 0.05, 0.025])
    snapshot.restore()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("optimizer", "name", "power"),
    [
        ("sgd", "SGD", 1.0),
        ("adam", "Adam", 0.5),
        ("adamw", "AdamW", 0.5),
        ("nadam", "Nadam", 0.5),
        ("adamax", "Adamax", 0.5),
        ("rmsprop", "RMSprop", None),
    ],
)
def test_the_rule_for_the_learning_rate_goes_by_the_compiled_optimizer(optimizer, name, power):
    workload = trainer(drifting_model(optimizer)).describe()
    assert workload.optimizer == name
    assert learning_rate_power(workload.optimizer) == power


def test_gradients_that_keras_accumulates_are_refused():
    error = refused(drifting_model(keras.optimizers.Adam(gradient_accumulation_steps=4)))
    assert error.code == "keras_accumulation"


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has none")
def test_an_optimizer_of_several_is_refused():
    optimizer = keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD())
    assert refused(drifting_model(optimizer)).code == "keras_optimizer"
