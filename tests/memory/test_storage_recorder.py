"""The recorder's log: births and deaths in order, with the kind of each storage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autobatch.devices.tracing_internals import FakeTensorMode
from autobatch.memory.fake_results import FakeResults
from autobatch.memory.storage_log import Birth, Death, Kind
from autobatch.memory.storage_recorder import StorageRecorder, run_directly

FLOAT = 4


def test_a_temporary_is_born_and_dies_before_the_next_birth() -> None:
    with StorageRecorder(run_directly) as recorder:
        held = torch.ones(3)
        torch.ones(5).sum()
        kept = torch.ones(7)
        trace = recorder.close()
    assert trace.events == (
        Birth(0, 3 * FLOAT),
        Birth(1, 5 * FLOAT),
        Birth(2, FLOAT),
        Death(1),
        Death(2),
        Birth(3, 7 * FLOAT),
    )
    assert (held.shape, kept.shape) == ((3,), (7,))


def test_a_view_is_no_new_storage_and_a_resized_storage_is() -> None:
    with StorageRecorder(run_directly) as recorder:
        values = torch.ones(4)
        view = values.view(2, 2)
        values.resize_(8)
        recorder.note(values)
        trace = recorder.close()
    assert trace.events == (Birth(0, 4 * FLOAT), Death(0), Birth(1, 8 * FLOAT))
    assert view.shape == (2, 2)


def test_deaths_after_the_end_do_not_count() -> None:
    with StorageRecorder(run_directly) as recorder:
        values = torch.ones(4)
        trace = recorder.close()
    del values
    assert recorder.close() == trace


def test_an_optimizer_marks_gradients_state_and_workspace() -> None:
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    with StorageRecorder(run_directly) as recorder, recorder.watch([optimizer]):
        recorder.note(model.weight)
        recorder.mark(model.parameters(), Kind.PARAMETER)
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        trace = recorder.close()
    kinds = [event.kind for event in trace.events if isinstance(event, Birth)]
    assert kinds[0] is Kind.PARAMETER
    assert kinds.count(Kind.GRADIENT) == 1
    # Both moments and the step count.
    assert kinds.count(Kind.OPTIMIZER) == 3
    assert Kind.WORKSPACE in kinds


def test_the_hooks_of_an_optimizer_end_with_the_watch() -> None:
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters())
    recorder = StorageRecorder(run_directly)
    with recorder.watch([optimizer]):
        pass
    model(torch.ones(2, 3)).sum().backward()
    with recorder:
        optimizer.step()
        torch.ones(2)
        trace = recorder.close()
    assert {event.kind for event in trace.events if isinstance(event, Birth)} == {Kind.ACTIVATION}


@pytest.mark.parametrize(
    ("dtype", "number"), [(torch.float32, 0.0), (torch.int64, 0), (torch.bool, False)], ids=str
)
def test_a_number_read_from_a_fake_tensor_is_zero_and_counted(
    dtype: torch.dtype, number: float | int | bool
) -> None:
    with FakeTensorMode() as mode, StorageRecorder(FakeResults(mode).run) as recorder:
        read = torch.zeros((), dtype=dtype).item()
        trace = recorder.close()
    assert (read, type(read)) == (number, type(number))
    assert trace.guessed == 1
