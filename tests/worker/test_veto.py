"""The veto on a real training: it hits learning rates that are wrong, and spares healthy sizes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import nn

from autobatch.decision import loss_curves
from autobatch.decision.critical_batch import scaled_learning_rate
from autobatch.engines import messages
from autobatch.examples import digits_cnn
from autobatch.records.check import Training
from autobatch.records.trial import Outcome
from autobatch.worker import short_training
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer

pytest.importorskip("sklearn")
pytestmark = pytest.mark.slow

OWN = 32
CRITICAL = 100.0
LEARNING_RATE = 0.2
SEEDS = range(4)


def network() -> nn.Module:
    """It learns from its first steps on, so that a slow machine sees it learn too."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def trained(size: int, factor: float, seed: int) -> Training:
    """A training on the digits with SGD for two seconds: thousands of steps."""
    torch.manual_seed(seed)
    parts = Parts(
        model=network,
        dataset=digits_cnn.build_dataset(),
        val_dataset=digits_cnn.build_val_dataset(),
        loss_fn=digits_cnn.loss_fn,
        optimizer=partial(torch.optim.SGD, lr=LEARNING_RATE),
    )
    trainer = Trainer(parts, open_samples(parts.dataset), open_samples(parts.val_dataset), "cpu")
    command = messages.Train(
        batch_size=size, learning_rate_factor=factor, seconds=2.0, samples=360, part_size=45, seed=seed
    )
    training = short_training.run(trainer, Snapshot(trainer), command).training
    assert training is not None
    return training


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Beside another busy process, two threads that wait for each other take a hundred times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=SEEDS)
def own(request: pytest.FixtureRequest) -> tuple[Training, int]:
    training = trained(OWN, 1.0, request.param)
    assert training.outcome is Outcome.OK
    return training, request.param


@pytest.mark.parametrize("times", [2, 4, 8])
def test_a_healthy_size_is_spared(own: tuple[Training, int], times: int) -> None:
    training, seed = own
    factor = scaled_learning_rate(1.0, OWN, times * OWN, CRITICAL, 1.0)
    assert loss_curves.why_worse(training, trained(times * OWN, factor, seed)) == ""


@pytest.mark.parametrize("times", [2, 8])
def test_ten_times_its_learning_rate_is_rejected(own: tuple[Training, int], times: int) -> None:
    training, seed = own
    factor = 10 * scaled_learning_rate(1.0, OWN, times * OWN, CRITICAL, 1.0)
    assert loss_curves.why_worse(training, trained(times * OWN, factor, seed)) != ""
