"""Lightning modules and data modules are recognized by their classes."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import nn

from autobatch.workload.lightning.detection import (
    detached,
    framework_of,
    frameworks_in_use,
    frameworks_of,
    is_datamodule,
    overrides,
)
from tests.workload.lightning.modules import (
    DATASET,
    Data,
    Net,
    fit,
)


def test_a_data_module_is_sent_without_its_trainer() -> None:
    data = Data()
    fit(Net(), data={"datamodule": data})
    alone = detached(data)
    assert data.trainer is not None
    assert alone.trainer is None
    assert alone.done is data.done
    assert detached(DATASET) is DATASET


def test_modules_and_data_modules_are_recognized_by_their_classes() -> None:
    assert framework_of(Net()) is pl
    assert framework_of(nn.Linear(1, 1)) is None
    assert is_datamodule(Data())
    assert not is_datamodule(DATASET)
    assert "lightning.pytorch" in frameworks_in_use()
    assert frameworks_of(Net(), Data()) == ("lightning.pytorch",)
    assert frameworks_of(nn.Linear(1, 1), DATASET) == ()


def test_a_method_counts_as_replaced_in_the_class_or_the_object_itself() -> None:
    module = Net()
    assert overrides(module, "training_step")
    assert not overrides(module, "validation_step")
    module.validation_step = lambda batch, batch_idx: None
    assert overrides(module, "validation_step")
    assert not overrides(None, "training_step")
    assert not overrides(module, "no_such_hook")
