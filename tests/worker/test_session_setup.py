"""The set-up of a session: options, memory shares, samples, and the errors of the user's code meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autobatch.devices.cpu import CpuBackend
from autobatch.engines import messages
from autobatch.records.errors import AutobatchError, DeviceError, TargetError, UsageError
from autobatch.records.limits import Precision
from autobatch.records.workload import SampleSizes
from autobatch.worker import session_setup
from autobatch.workload.parts import Parts
from autobatch.workload.sample_size import Scan
from tests.simulated import SimulatedBackend

DATA = (torch.arange(20.0)[:, None], torch.arange(20))


def start(recipe: messages.Recipe | None = None, **given: Any) -> messages.Start:
    settings: dict[str, Any] = {
        "device": "cpu",
        "memory_bytes": None,
        "memory_fraction": 0.8,
        "seed": 0,
        **given,
    }
    return messages.Start(recipe=recipe or messages.Recipe(), **settings)


def parts(**given: Any) -> Parts:
    return Parts(model=nn.Linear(1, 20), **given)


def whole_step(model: Any, optimizers: Any, batch: Any) -> None: ...


def group(local_ranks: int) -> messages.Group:
    return messages.Group(
        rank=0,
        ranks=4,
        local_rank=0,
        local_ranks=local_ranks,
        host="localhost",
        port=1,
        prefix="",
        timeout_seconds=1.0,
    )


def test_the_precision_of_the_recipe_comes_first() -> None:
    assert session_setup.in_precision(parts(precision=Precision.BF16), None).precision is Precision.BF16
    assert session_setup.in_precision(parts(), Precision.FP16).precision is Precision.FP16


def test_a_step_sets_its_precision_by_itself() -> None:
    stepping = parts(step=whole_step, precision=Precision.BF16)
    assert session_setup.in_precision(stepping, None).precision is Precision.FP32
    with pytest.raises(UsageError, match="can't be used with a `step`"):
        session_setup.in_precision(stepping, Precision.BF16)


def test_a_named_optimizer_takes_the_place_of_all_others() -> None:
    given = parts(optimizer=torch.optim.SGD, make_optimizers=lambda model: None)
    named = session_setup.with_options(given, messages.Recipe(optimizer="adam"))
    assert (named.optimizer, named.make_optimizers) == (torch.optim.Adam, None)
    assert session_setup.with_options(given, messages.Recipe()) == replace(given, precision=Precision.FP32)


def test_ranks_of_a_machine_share_its_memory_unless_it_is_limited() -> None:
    cpu, other = CpuBackend(), SimulatedBackend()
    assert session_setup.memory_share(start(), cpu) == 0.8
    assert session_setup.memory_share(start(group=group(4)), cpu) == 0.2
    assert session_setup.memory_share(start(group=group(4), memory_bytes=1 << 30), cpu) == 0.8
    assert session_setup.memory_share(start(group=group(4)), other) == 0.8


def test_samples_are_scanned_once_for_all_sessions() -> None:
    samples, val_samples = session_setup.open_both_samples(parts(dataset=DATA), start())
    assert samples.scanned is not None
    assert samples.scanned.sizes.scanned == 20
    assert val_samples is None
    earlier = Scan(SampleSizes(scanned=3, smallest=1, median=1.0, largest=2), (2, 0))
    again, _ = session_setup.open_both_samples(parts(dataset=DATA), start(scan=earlier))
    assert again.scanned is earlier


def test_validation_samples_are_collated_like_the_others_by_default() -> None:
    _, held_out = session_setup.open_both_samples(
        parts(dataset=DATA, val_dataset=DATA, collate_fn=len), start()
    )
    assert held_out is not None
    assert held_out.batch(3, 0) == 3


def test_an_input_shape_takes_the_place_of_data() -> None:
    recipe = messages.Recipe(input_shape=(3, 8), classes=5)
    samples, _ = session_setup.open_both_samples(parts(), start(recipe))
    assert samples.synthetic
    assert samples.batch(2, 0)[0].shape == (2, 3, 8)


@pytest.mark.parametrize(
    ("target", "message"), [("net.py", "`net.py` has no data set"), ("", "no data set was given")]
)
def test_a_target_without_data(target: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        session_setup.open_both_samples(parts(), start(messages.Recipe(target=target)))
    assert (caught.value.code, caught.value.message) == ("no_dataset", message)
    assert caught.value.hint


class Skipped(BaseException):
    """Like that of `pytest.skip`."""


@pytest.mark.parametrize(
    ("error", "kind", "code", "message"),
    [
        (ValueError("no"), TargetError, "target_raises", "`net.py` raised an error while it was imported"),
        (Skipped("no"), TargetError, "target_raises", "`net.py` raised an error while it was imported"),
        (SystemExit(1), TargetError, "target_exits", "`net.py` called `sys.exit` while it was imported"),
        (MemoryError(), DeviceError, "nothing_fits", "the model alone does not fit into the memory limit"),
        (UsageError("nested", code="own"), UsageError, "own", "nested"),
    ],
)
def test_errors_of_the_users_code_are_errors_of_the_target(
    error: BaseException, kind: type[AutobatchError], code: str, message: str
) -> None:
    with pytest.raises(kind) as caught, session_setup.target_errors("import", "net.py", 1):
        raise error
    assert (caught.value.code, caught.value.message) == (code, message)


def test_seeds_of_any_length_are_taken() -> None:
    for seed in (0, 2**63 - 1):
        session_setup.seed_everything(seed)
        first = torch.rand(()), torch.rand(())
        session_setup.seed_everything(seed)
        assert (torch.rand(()), torch.rand(())) == first
