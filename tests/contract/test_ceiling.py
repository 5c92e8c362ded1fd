"""The ceiling under a real memory limit, against an exhaustive search in fresh processes."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.nn import functional as F

from autobatch.engines.local import LocalEngine
from autobatch.engines.messages import Recipe
from autobatch.measurement.climb import Climb
from autobatch.records.limits import Limits
from autobatch.records.trial import Ceiling, LimitedBy
from tests.accelerator import built_library, missing, model_preamble
from tests.contract.child import in_child

MIB = 1 << 20
STEPS = 10

MODEL = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 24 * 24, 10),
    )

dataset = TensorDataset(torch.randn(1000, 1, 48, 48), torch.randint(10, (1000,)))

def make_optimizer(params):
    return torch.optim.Adam(params)
"""


@contextmanager
def engine(target: Path, device: str, limits: Limits) -> Iterator[LocalEngine]:
    opened = LocalEngine(Recipe(target=str(target)), limits, device, {}, print)
    try:
        yield opened
    finally:
        opened.close()


def found_ceiling(target: Path, device: str, limits: Limits) -> Ceiling:
    with engine(target, device, limits) as opened:
        return Climb(opened, limits).run().ceiling


def survives(opened: LocalEngine, size: int) -> bool:
    """True if ten full steps of a size pass in a fresh process."""
    opened.renew()
    return opened.try_out(size, 600.0, STEPS).outcome == "ok"


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_on_a_device_with_an_exact_limit_the_ceiling_is_exact(tmp_path: Path) -> None:
    built_library()
    target = tmp_path / "net.py"
    target.write_text(model_preamble(24 * MIB) + MODEL)
    limits = Limits(ceiling=True, budget_seconds=600.0)
    ceiling = found_ceiling(target, "testdev", limits)
    with engine(target, "testdev", limits) as opened:
        passed = [size for size in range(1, ceiling.batch_size + 9) if survives(opened, size)]
    assert passed == list(range(1, ceiling.batch_size + 1))
    assert ceiling.limited_by is LimitedBy.MEMORY
    assert ceiling.verified


# Large parameters first: without accumulation their gradients come when the activations are gone.
WIDE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def build_model():
    return nn.Sequential(nn.Linear(512, 2048), *(nn.Tanh() for _ in range(4)), nn.Linear(2048, 10))

dataset = TensorDataset(torch.randn(4096, 512), torch.randint(10, (4096,)))

def make_optimizer(params):
    return torch.optim.SGD(params, lr=0.01)
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_where_gradients_accumulate_the_ceiling_holds_them_through_the_forward_pass(tmp_path: Path) -> None:
    built_library()
    target = tmp_path / "wide.py"
    target.write_text(model_preamble(24 * MIB) + WIDE)
    alone = found_ceiling(target, "testdev", Limits(ceiling=True, budget_seconds=600.0))
    limits = Limits(ceiling=True, budget_seconds=600.0, global_batch=4096)
    accumulating = found_ceiling(target, "testdev", limits)
    assert accumulating.batch_size < 0.9 * alone.batch_size
    in_child(_accumulate, str(target), accumulating.batch_size)
    with pytest.raises(pytest.fail.Exception, match="OutOfMemoryError"):
        in_child(_accumulate, str(target), accumulating.batch_size + 1)


def _accumulate(target: str, batch_size: int) -> None:
    """Two optimizer steps of two batches each, on the device of the model file."""
    found = runpy.run_path(target)
    model = found["build_model"]().to("testdev")
    optimizer = found["make_optimizer"](model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(2):
            inputs, classes = (part.to("testdev") for part in found["dataset"][:batch_size])
            F.cross_entropy(model(inputs), classes).backward()
        optimizer.step()


# Tensors above 32 MiB, which glibc always maps one by one: of smaller ones a heap keeps pieces in another
# layout each time, and the largest size that fits is then itself a matter of luck, within tens of percent.
LARGE_TENSORS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16 * 32 * 32, 10)
    )

dataset = TensorDataset(torch.randn(400, 1, 128, 128), torch.randint(10, (400,)))

def make_optimizer(params):
    return torch.optim.SGD(params, lr=0.01)
"""


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_on_a_cpu_the_ceiling_survives_and_is_near_the_largest_that_does(tmp_path: Path) -> None:
    target = tmp_path / "net.py"
    target.write_text(LARGE_TENSORS)
    limits = Limits(memory_bytes=300 * MIB, min_batch=32, ceiling=True, budget_seconds=600.0)
    ceiling = found_ceiling(target, "cpu", limits)
    assert ceiling.limited_by is LimitedBy.MEMORY
    assert ceiling.verified
    survivors = {
        ceiling.batch_size,
        *(int(ceiling.batch_size * (1 + share / 100)) for share in range(12, 60, 8)),
    }
    # Sessions of one worker share its memory layout: only workers started anew are independent.
    for _ in range(5):
        with engine(target, "cpu", limits) as opened:
            survivors = {size for size in survivors if survives(opened, size)}
    assert ceiling.batch_size in survivors
    # A tenth of the limit stays free, and the next size tried is up to a tenth away.
    assert 0.75 * max(survivors) <= ceiling.batch_size
