"""Keras models and data sets are recognized by their classes."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import keras

import autobatch
from autobatch import AutobatchError
from autobatch.workload.dataset import open_samples
from autobatch.workload.keras import detection
from tests.workload.keras.models import arrays, beginner


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return arrays(8)


def test_data_in_batches_of_its_own_is_refused():
    for call in (lambda: open_samples(Batches()), lambda: autobatch.find(beginner(), Batches())):
        with pytest.raises(AutobatchError) as raised:
            call()
        assert raised.value.code == "own_batches"


def test_a_model_of_another_backend_is_refused():
    class Model:
        """What a Keras model looks like on JAX or TensorFlow: no torch in it."""

    Model.__module__ = "keras.src.models.model"
    with pytest.raises(AutobatchError) as raised:
        autobatch.find(Model(), arrays())  # type: ignore[arg-type]
    assert raised.value.code == "keras_backend"
    assert "KERAS_BACKEND=torch" in raised.value.hint
    detection.refuse_other_backend(beginner())


def test_models_are_recognized_by_their_classes() -> None:
    assert detection.is_model(beginner())
    assert not detection.is_model(torch.nn.Linear(1, 1))
    assert not detection.is_model(None)
    detection.refuse_other_backend(torch.nn.Linear(1, 1))
    detection.refuse_batches(arrays())
