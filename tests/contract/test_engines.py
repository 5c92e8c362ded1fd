"""One contract for every engine: a worker process here, ranks, a Ray cluster, and the simulated device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from autobatch.devices.oom import Cause
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.engines.local import LocalEngine
from autobatch.records.check import LossKind
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from tests.simulated import MIB, Machine, SimulatedEngine
from tests.simulated_ranks import alike, ranked

LIMITS = Limits(trial_timeout_seconds=120.0)
# The sizes of every workload here: one that passes, and one for each way to fail.
PASSES, TOO_LARGE, FAILS, DIES = 8, 16, 18, 20

MODEL = f"""
import os, signal
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import TensorDataset

with (Path(__file__).parent / "sessions").open("a") as file:
    file.write(f"{{os.getpid()}}\\n")

batch_size = {PASSES}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, inputs):
        if len(inputs) == {TOO_LARGE}:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        if len(inputs) == {FAILS}:
            raise ValueError("these samples don't go together")
        if len(inputs) == {DIES}:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layer(inputs)

def build_model():
    return Net()

inputs = torch.randn(2048, 8, generator=torch.Generator().manual_seed(0))
dataset = TensorDataset(inputs, inputs[:, :4].argmax(1))
"""

MACHINE = Machine(
    total_bytes=100 * MIB,
    fixed_bytes=0,
    sample_bytes=8 * MIB,
    dataset_size=2048,
    current_batch_size=PASSES,
    failures={FAILS: "these samples don't go together"},
    crashes={DIES: 99},
    load_seconds=1e-4,
    loss_kind=LossKind.MEAN,
)


@dataclass(frozen=True)
class Bench:
    """An engine with the means to look behind it.

    `sessions`: how many processes have prepared the workload so far. `leftovers`: what is left of the engine
    once it is closed.
    """

    engine: Engine
    sessions: Callable[[], int]
    leftovers: Callable[[], list[str]]


@contextlib.contextmanager
def local_bench(folder: Path) -> Iterator[Bench]:
    before = descendants()
    recipe = messages.Recipe(target=str(model_file(folder)))
    engine = LocalEngine(recipe, LIMITS, "cpu", {}, print)
    with contextlib.closing(engine):
        yield Bench(engine, lambda: sessions_of(folder), lambda: sorted(descendants() - before))


@contextlib.contextmanager
def ray_bench(folder: Path) -> Iterator[Bench]:
    from autobatch.engines.ray.engine import ray_engines

    recipe = messages.Recipe(target=str(model_file(folder)))
    with (
        ray_engines(None, recipe, "cpu", print) as make,
        contextlib.closing(make(recipe, LIMITS, "cpu", {}, print)) as engine,
    ):
        # The cluster's processes stay until its end.
        yield Bench(
            engine,
            lambda: sessions_of(folder),
            lambda: sorted(name for name in descendants() if "autobatch.worker" in name),
        )


@contextlib.contextmanager
def ranked_bench(folder: Path) -> Iterator[Bench]:
    engine, _, members = ranked(alike(MACHINE, 2), LIMITS)
    yield Bench(engine, lambda: members[1].sessions, list)


@contextlib.contextmanager
def simulated_bench(folder: Path) -> Iterator[Bench]:
    engine = SimulatedEngine(MACHINE)
    yield Bench(engine, lambda: engine.sessions, lambda: [] if engine.closed else ["a session"])


def model_file(folder: Path) -> Path:
    file = folder / "model.py"
    file.write_text(MODEL, encoding="utf-8")
    return file


def sessions_of(folder: Path) -> int:
    return len((folder / "sessions").read_text(encoding="utf-8").splitlines())


def descendants() -> set[str]:
    """The living processes under this one: number, start and command, since numbers are used again."""
    names = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                names.add(f"{process.pid} since {process.create_time()}: {process.cmdline()}")
    return names


needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
KINDS = [
    pytest.param(simulated_bench, id="simulated"),
    pytest.param(ranked_bench, id="ranked"),
    pytest.param(local_bench, id="local"),
    pytest.param(ray_bench, id="ray", marks=[pytest.mark.slow, needs_ray]),
]


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One engine of each kind: the start of a worker takes seconds."""
    with request.param(tmp_path_factory.mktemp("engine")) as opened:
        yield opened


@pytest.fixture
def engine(bench: Bench) -> Engine:
    bench.engine.renew()
    return bench.engine


def test_it_opens_once_and_says_what_it_found(bench: Bench, engine: Engine) -> None:
    opened = engine.open()
    before = bench.sessions()
    assert engine.open() == opened
    assert bench.sessions() == before
    assert opened.workload.batch_size == PASSES
    assert opened.workload.dataset_size == 2048
    assert opened.world_size == engine.ranks
    assert 1 <= engine.local_ranks <= engine.ranks
    fingerprint = engine.take_fingerprint()
    assert bool(fingerprint.parts) != bool(fingerprint.detail)


def test_a_try_that_passes_has_its_figures(engine: Engine) -> None:
    assert engine.fresh
    busy_seconds = engine.busy_seconds
    tried = engine.try_out(PASSES, 60.0, messages.FULL_STEPS)
    assert tried.outcome is Outcome.OK, tried.detail
    assert (tried.batch_size, tried.steps, tried.optimizer_steps) == (PASSES, 3, 3)
    assert tried.step_seconds is not None
    assert tried.step_seconds > 0
    assert tried.peak_bytes is not None
    assert tried.finite
    assert engine.busy_seconds > busy_seconds
    assert not engine.fresh


def test_a_size_for_each_rank_takes_the_place_of_the_common_one(engine: Engine) -> None:
    sizes = (PASSES,) * engine.ranks
    assert engine.try_out(TOO_LARGE, 60.0, 3, sizes=sizes).outcome is Outcome.OK
    assert isinstance(engine.time_round(TOO_LARGE, 60.0, sizes=sizes), messages.Timed)


@pytest.mark.parametrize(
    ("size", "outcome", "cause"),
    [
        pytest.param(TOO_LARGE, Outcome.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY, id="too large"),
        pytest.param(FAILS, Outcome.FAILED, Cause.USER_ERROR, id="user error"),
        pytest.param(DIES, Outcome.CRASHED, None, id="died"),
    ],
)
def test_a_failure_is_an_outcome_and_the_next_try_passes(
    bench: Bench, engine: Engine, size: int, outcome: Outcome, cause: Cause | None
) -> None:
    engine.try_out(PASSES, 60.0, messages.FULL_STEPS)
    before = bench.sessions()
    tried = engine.try_out(size, 60.0, messages.FULL_STEPS)
    assert (tried.batch_size, tried.outcome, tried.cause) == (size, outcome, cause)
    assert tried.detail
    assert engine.fresh
    if cause is Cause.USER_ERROR:
        assert tried.error is not None
        assert tried.error.rebuilt().code == "step_fails"
    assert engine.try_out(PASSES, 60.0, messages.FULL_STEPS).outcome is Outcome.OK
    assert bench.sessions() == before + 1


def test_rounds_are_timed_with_and_without_communication(engine: Engine) -> None:
    engine.try_out(PASSES, 60.0, messages.FULL_STEPS)
    for alone in (False, True):
        timed = engine.time_round(PASSES, 60.0, alone=alone)
        assert isinstance(timed, messages.Timed)
        assert timed.step_seconds > 0
        assert timed.optimizer_steps >= 1
    assert [seconds > 0 for seconds in engine.time_each(PASSES, 60.0)] == [True] * engine.ranks
    failed = engine.time_round(DIES, 60.0)
    assert isinstance(failed, messages.Tried)
    assert failed.outcome is Outcome.CRASHED


def test_a_fresh_process_is_another_one(bench: Bench, engine: Engine) -> None:
    for worker in (False, True):
        engine.try_out(PASSES, 60.0, messages.FULL_STEPS)
        before = bench.sessions()
        engine.renew(worker=worker)
        assert engine.fresh
        assert engine.try_out(PASSES, 60.0, messages.FULL_STEPS).outcome is Outcome.OK
        assert bench.sessions() == before + 1


def test_a_traced_step_has_its_lines(engine: Engine) -> None:
    engine.open()
    traced = engine.trace_memory()
    assert traced.lines, traced.detail
    assert max(line.sample_bytes for line in traced.lines) > 0
    assert engine.try_out(PASSES, 60.0, messages.FULL_STEPS).outcome is Outcome.OK


def test_the_noise_of_the_gradient_is_measured(engine: Engine) -> None:
    command = messages.MeasureNoise(
        batch_size=PASSES,
        learning_rate_factor=1.0,
        seconds=30.0,
        burn_in_seconds=0.1,
        most_samples=256,
        largest_chunk=PASSES,
    )
    noise = engine.measure_noise(command)
    assert noise.measured, noise.error
    assert all(chunks.chunk_size <= PASSES for chunks in noise.measured)


def test_the_noise_after_trials_is_that_of_a_fresh_process(bench: Bench, engine: Engine) -> None:
    """A session that can return to its first state measures it without a fresh process."""
    command = messages.MeasureNoise(
        batch_size=PASSES,
        learning_rate_factor=1.0,
        seconds=60.0,
        # It ends after two epochs.
        burn_in_seconds=30.0,
        most_samples=256,
        largest_chunk=PASSES,
    )
    fresh = engine.measure_noise(command)
    engine.renew()
    engine.try_out(PASSES, 60.0, messages.FULL_STEPS)
    engine.time_round(PASSES, 60.0)
    before = bench.sessions()
    used = engine.measure_noise(command)
    assert used.after_steps == fresh.after_steps
    for chunks, again in zip(fresh.measured, used.measured, strict=True):
        assert again.squared_norms == pytest.approx(chunks.squared_norms)
        assert again.sum_squared_norm == pytest.approx(chunks.sum_squared_norm)
    if isinstance(engine, LocalEngine):
        assert bench.sessions() == before


def test_the_kind_of_loss_is_measured_before_and_after_a_trial(engine: Engine) -> None:
    command = messages.MeasureLossKind(half_size=PASSES // 2, most_samples=PASSES, seconds=30.0, seed=0)
    for _ in range(2):
        assert engine.measure_loss_kind(command).kind is LossKind.MEAN
        engine.try_out(PASSES, 60.0, messages.FULL_STEPS)


def test_a_worker_that_dies_leaves_the_kind_of_loss_unknown(engine: Engine) -> None:
    if not isinstance(engine, LocalEngine):
        pytest.skip("a simulated loss is no code that could die")
    command = messages.MeasureLossKind(half_size=DIES // 2, most_samples=DIES, seconds=30.0, seed=0)
    found = engine.measure_loss_kind(command)
    assert found.kind is LossKind.UNKNOWN
    assert found.detail


def test_trainings_start_from_the_first_weights_and_their_failure_is_an_outcome(engine: Engine) -> None:
    first, again = (engine.train_all([training(PASSES)])[0] for _ in range(2))
    assert first.training is not None
    assert again.training is not None
    assert first.training.outcome is Outcome.OK, first.training.detail
    assert first.held_out
    assert first.training.steps > 0
    start, restart = first.training.evaluations[0], again.training.evaluations[0]
    assert start.losses == pytest.approx(restart.losses)
    assert engine.trainings_at_once >= 1


def test_the_loader_is_timed(engine: Engine) -> None:
    command = messages.TimeLoader(batch_size=PASSES, workers=0, seconds=0.2, seed=0)
    loaded = engine.time_loader(command)
    assert loaded.batch_seconds is not None, loaded.detail
    assert loaded.batch_seconds > 0


def test_nothing_is_left_of_a_closed_engine(bench: Bench, engine: Engine) -> None:
    engine.try_out(PASSES, 60.0, messages.FULL_STEPS)
    engine.close()
    assert bench.leftovers() == []
    engine.close()


def training(batch_size: int) -> messages.Train:
    return messages.Train(
        batch_size=batch_size,
        learning_rate_factor=1.0,
        seconds=1.0,
        samples=64,
        part_size=PASSES,
        seed=0,
    )
