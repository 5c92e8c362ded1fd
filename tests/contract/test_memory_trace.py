"""The trace of a step in a real worker, against what the device's allocator counts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from autobatch.decision.memory_forecast import live_bytes
from autobatch.engines.messages import Recipe
from autobatch.measurement.climb import Climb
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import LimitedBy, Outcome
from tests.accelerator import built_library, missing, model_preamble
from tests.contract.test_ceiling import MIB, MODEL
from tests.shared_worker import SharedWorker

UNTRACEABLE = """
def training_step(model, batch):
    images, digits = batch
    kept = images.sum((1, 2, 3)) > -1e9
    return nn.functional.cross_entropy(model(images[kept]), digits[kept])
"""


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_on_an_exact_device_the_trace_is_what_the_allocator_counts(
    shared_worker: SharedWorker, tmp_path: Path
) -> None:
    built_library()
    target = tmp_path / "net.py"
    target.write_text(model_preamble(64 * MIB) + MODEL)
    with closing(shared_worker.engine(Recipe(target=str(target)), device="testdev")) as opened:
        opened.open()
        traced = opened.trace_memory()
        assert traced.lines, traced.detail
        peak = opened.try_out(60, 60.0, 3).peak_bytes
        assert peak == pytest.approx(live_bytes(traced.lines, 60), rel=0.1)


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize(
    "more",
    [pytest.param("", id="traced"), pytest.param(UNTRACEABLE, id="untraceable", marks=pytest.mark.slow)],
)
def test_the_exact_ceiling_takes_few_tries_and_is_never_missed(
    shared_worker: SharedWorker, tmp_path: Path, more: str
) -> None:
    """The target of the search: the largest size that fits, whether a step can be traced or not."""
    built_library()
    target = tmp_path / "net.py"
    target.write_text(model_preamble(64 * MIB) + MODEL + more)
    limits = Limits(objective=Objective.MEMORY, budget_seconds=600.0, memory_fraction=0.9)
    with closing(shared_worker.engine(Recipe(target=str(target)), limits, "testdev")) as opened:
        curve = Climb(opened, limits).run()
        size = curve.ceiling.batch_size
        opened.renew()
        above = opened.try_out(size + 1, 60.0, 3)
    assert curve.ceiling.limited_by is LimitedBy.MEMORY
    assert curve.ceiling.verified
    assert above.outcome is Outcome.OUT_OF_MEMORY
    assert curve.device.limit_bytes == int(0.9 * 64 * MIB)
    assert len(curve.trials) <= (16 if more else 8)


def test_a_step_that_fails_under_a_trace_says_why_and_costs_nothing(
    shared_worker: SharedWorker, tmp_path: Path
) -> None:
    target = tmp_path / "net.py"
    target.write_text(
        MODEL + "\nBAD = True\n" + UNTRACEABLE.replace("kept =", "assert len(images) < 4; kept =")
    )
    with closing(shared_worker.engine(Recipe(target=str(target)))) as opened:
        opened.open()
        traced = opened.trace_memory()
        assert traced.lines == ()
        assert "AssertionError" in traced.detail
        assert opened.try_out(2, 60.0, 3).outcome is Outcome.OK


def test_where_torch_lacks_a_private_name_the_search_goes_on_without_a_trace(
    shared_worker: SharedWorker, tmp_path: Path
) -> None:
    target = tmp_path / "net.py"
    lacking = "import sys\nsys.modules['autobatch.devices.tracing_internals'] = None\n"
    target.write_text(lacking + MODEL)
    limits = Limits(ceiling=True, max_batch=8, budget_seconds=600.0)
    with closing(shared_worker.engine(Recipe(target=str(target)), limits)) as opened:
        opened.open()
        traced = opened.trace_memory()
        assert traced.lines == ()
        assert "tracing_internals" in traced.detail
        assert Climb(opened, limits).run().ceiling.batch_size == 8
