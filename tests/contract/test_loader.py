"""DataLoaders in real workers: timed with the user's own settings, failing as they fail, leaving nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import autobatch
from autobatch import Limits, Recommendation
from autobatch.devices.host import usable_processors
from autobatch.engines import messages
from tests.faults.probing import wait_until
from tests.shared_worker import SharedWorker

Loading = Callable[..., messages.Loaded]
SAMPLE_SECONDS, SLOWER_SECONDS = 0.01, 0.02

# Eight samples take 80 ms, whatever else this machine does: sleeping needs no processor.
MODEL = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

HERE = Path(__file__).parent
model = nn.Linear(4, 2)

class Slow(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep({seconds})
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            {trouble}
            pass
        return torch.zeros(4), index % 2

def begin(worker):
    (HERE / f"began_{{worker}}").touch()

train_dataloader = DataLoader(Slow(), batch_size=8, {settings})
"""


@pytest.fixture
def loaded(shared_worker: SharedWorker, tmp_path: Path) -> Loading:
    def answer(
        command: messages.TimeLoader, *, settings: str = "", trouble: str = "pass", timeout: float = 60.0
    ) -> messages.Loaded:
        """The answer to a command. Fails where a process outlives the session."""
        target = tmp_path / "slow.py"
        target.write_text(MODEL.format(seconds=SAMPLE_SECONDS, settings=settings, trouble=trouble))
        limits = Limits(trial_timeout_seconds=timeout)
        engine = shared_worker.engine(messages.Recipe(target=str(target)), limits)
        try:
            opened = engine.open()
            engine.renew()
            before = descendants()
            assert opened.workload.workers == (2 if "num_workers=2" in settings else 0)
            reply = engine.time_loader(command)
        finally:
            engine.close()
        wait_until(lambda: descendants() <= before, "all processes are gone but the worker")
        return reply

    return answer


def descendants() -> set[int]:
    return {
        one.pid
        for one in psutil.Process().children(recursive=True)
        if one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    }


def asking(workers: int, seconds: float = 0.5) -> messages.TimeLoader:
    return messages.TimeLoader(batch_size=8, workers=workers, seconds=seconds, seed=0)


@pytest.mark.slow
def test_workers_share_the_loading(loaded: Loading) -> None:
    alone = loaded(asking(0))
    assert alone.detail == ""
    assert alone.batch_seconds is not None
    assert alone.batch_seconds >= 8 * SAMPLE_SECONDS
    shared = loaded(asking(8, seconds=1.0))
    assert shared.batch_seconds is not None
    # No more than eight sleep at once; that they all do takes some doing on a busy machine.
    assert 0.5 * SAMPLE_SECONDS < shared.batch_seconds < alone.batch_seconds


def test_the_settings_of_the_users_own_loader_are_kept(loaded: Loading, tmp_path: Path) -> None:
    settings = 'num_workers=2, worker_init_fn=begin, persistent_workers=True, multiprocessing_context="fork"'
    reply = loaded(asking(2), settings=settings)
    assert reply.batch_seconds is not None
    assert {path.name for path in tmp_path.glob("began_*")} == {"began_0", "began_1"}


@pytest.mark.parametrize(
    ("trouble", "settings", "detail"),
    [
        ("raise ValueError('bad image')", "", "ValueError: bad image"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "", "RuntimeError: DataLoader worker"),
        ("time.sleep(1000)", "num_workers=2, timeout=2", "RuntimeError: DataLoader timed out after 2"),
        pytest.param("time.sleep(1000)", "", "the worker did not answer in time", marks=pytest.mark.slow),
        ("worker.id or os.kill(os.getppid(), signal.SIGKILL)", "", "the worker ended with status -9"),
    ],
    ids=["raises", "is killed", "times out", "hangs", "kills"],
)
def test_what_goes_wrong_in_a_worker_is_told_and_nothing_is_left(
    loaded: Loading, trouble: str, settings: str, detail: str
) -> None:
    reply = loaded(asking(2), trouble=trouble, settings=settings, timeout=6.0)
    assert reply.batch_seconds is None
    assert reply.detail.startswith(detail)


def test_workers_that_can_not_start_are_told(loaded: Loading) -> None:
    # A class of a closure can't be sent to a process that is spawned.
    settings = 'num_workers=2, multiprocessing_context="spawn", worker_init_fn=lambda worker: None'
    reply = loaded(asking(2), settings=settings)
    assert reply.batch_seconds is None
    assert "pickle" in reply.detail


class Slow(Dataset[Any]):
    def __init__(self, seconds: float = SAMPLE_SECONDS) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(self.seconds)
        return torch.zeros(4), index % 2


class SlowStream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        while True:
            time.sleep(SAMPLE_SECONDS)
            yield torch.zeros(4), 1


def find(data: Any, training_step: Callable[..., Any] | None = None, **limits: Any) -> Recommendation:
    limits = {"max_batch": 8, "min_batch": 8, "budget_seconds": 60.0, "check": False, **limits}
    return autobatch.find(
        nn.Linear(4, 2), data, training_step=training_step, device="cpu", limits=Limits(**limits)
    )


def test_an_answer_says_which_number_of_workers_lifts_the_bound() -> None:
    """A step of microseconds can't be kept up with: the best that workers do is told."""
    found = find(DataLoader(Slow(), batch_size=8, num_workers=1))
    assert found.workload.workers == 1
    assert found.loader is not None
    assert found.loader.batch_size == 8
    assert found.loader.workers == found.loader.timings[0].workers == 1
    assert found.loader.sufficient_workers is None
    assert any(warning.startswith("loading is the bottleneck") for warning in found.warnings)


def slow_step(model: nn.Module, batch: Any) -> torch.Tensor:
    """Sleeps almost as long as one process needs for a batch, and twice as long as two do."""
    time.sleep(7 * SLOWER_SECONDS)
    inputs, _ = batch
    output: torch.Tensor = model(inputs)
    return output.square().mean()


@pytest.mark.slow
def test_workers_lift_the_bound_of_slow_samples() -> None:
    found = find(Slow(SLOWER_SECONDS), slow_step, budget_seconds=120.0)
    assert found.workload.workers is None
    loader = found.loader
    assert loader is not None
    own, *_, last = loader.timings
    assert own.workers == 0
    assert (loader.pace_seconds(own) or 0.0) > 1.5 * loader.step_seconds
    if usable_processors() >= 2:
        assert loader.sufficient_workers == last.workers > 0


def test_a_stream_is_read_once_more_to_be_timed() -> None:
    found = find(SlowStream())
    assert found.loader is not None
    assert found.loader.timings[0].batch_seconds is not None
    assert found.loader.timings[0].batch_seconds >= 8 * SAMPLE_SECONDS
    assert all(trial.load_seconds is None for trial in found.trials)
