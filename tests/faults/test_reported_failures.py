"""What users of other batch size finders reported: each situation, and that autobatch fares better.

The numbers are threads on GitHub. Most situations are made on the simulated device. Where it takes a real
process, it is a small one, on the CPU or on the accelerator of the tests, which runs out of memory for real.
"""

from __future__ import annotations

import importlib.util
from contextlib import closing
from math import ceil, log2
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autobatch
from autobatch.decision.recommender import recommend
from autobatch.engines import messages
from autobatch.engines.local import LocalEngine
from autobatch.measurement.climb import Climb
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Curve, LimitedBy, Outcome
from autobatch.workload.dataset import open_samples
from tests.accelerator import built_library, missing, model_preamble, testdev
from tests.contract.child import in_child
from tests.shared_worker import SharedWorker
from tests.simulated import MIB, CrashError, Machine, SimulatedEngine

LONG = 1e6
# Of the sizes on the accelerator of the tests: a ceiling has to hold, and be less than two of these too low.
STRIDE = 32
TESTDEV = pytest.mark.skipif(bool(missing()), reason=missing())


pytestmark = pytest.mark.usefixtures("quick_collections")


def holding(most: int, **facts: Any) -> Machine:
    """A machine whose memory holds batches of up to `most` samples."""
    return Machine(total_bytes=(64 + most) * MIB, fixed_bytes=64 * MIB, sample_bytes=MIB, **facts)


def climbed(engine: SimulatedEngine, **limits: Any) -> Curve:
    return Climb(engine, Limits(**{"budget_seconds": LONG, "ceiling": True, **limits})).run()


def answered(machine: Machine, **limits: Any) -> Recommendation:
    curve = climbed(SimulatedEngine(machine), **limits)
    return recommend(curve, None, Limits(**{"budget_seconds": LONG, "ceiling": True, **limits}))


# 1. Trials that run nothing

LOOP_WITH_A_MAXIMUM = """
import torch
from torch import nn

model = nn.Linear(8, 4)
dataset = (torch.randn(64, 8), torch.randint(0, 4, (64,)))
done = 0

def step(model, optimizer, batch):
    # A loop with `max_steps`, whose count of steps nobody sets back before the next size.
    global done
    if len(batch[0]) > 1 and done >= 3:
        return
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    optimizer.zero_grad()
    done += 1
"""


def test_1_a_trial_that_runs_nothing_is_void(shared_worker: SharedWorker, tmp_path: Path) -> None:
    """Lightning-AI/pytorch-lightning 21903, 13851, 13696: from the second size on no batch was trained on.

    Here each size is tried in a process in which the loop has not ended.
    """
    model_file = tmp_path / "net.py"
    model_file.write_text(LOOP_WITH_A_MAXIMUM)
    limits = Limits(max_batch=16)
    with closing(shared_worker.engine(messages.Recipe(target=str(model_file)), limits)) as engine:
        curve = Climb(engine, limits).run()
    assert [(t.batch_size, t.ok) for t in curve.trials] == [(size, True) for size in (1, 2, 4, 8, 16)]
    assert all(trial.optimizer_steps >= 3 for trial in curve.trials)
    warnings = " ".join(curve.warnings)
    assert "the model keeps state from batch to batch: batch size 2 failed after other sizes" in warnings


def test_1_every_trial_tells_what_it_executed() -> None:
    """Lightning-AI/pytorch-lightning 21903: what passed is counted in samples and optimizer steps."""
    for trial in climbed(SimulatedEngine(holding(100, dataset_size=64))).trials:
        assert trial.optimizer_steps >= 3
        assert trial.samples == trial.optimizer_steps * trial.batch_size


# 2. An untested size is returned


@pytest.mark.parametrize(
    ("most", "current", "max_batch"), [(5, 16, None), (5000, None, 8192), (5000, 8192, 8192)]
)
def test_2_only_sizes_that_passed_are_returned(most: int, current: int | None, max_batch: int | None) -> None:
    """Lightning-AI/pytorch-lightning 18426: 16 came back where 5 was the most, and 8,192 where 5,000 was."""
    machine = holding(most, current_batch_size=current)
    for objective in Objective:
        found = answered(machine, max_batch=max_batch, objective=objective)
        assert found.ceiling.batch_size == most
        assert found.ceiling.verified
        assert found.chosen.ok
        assert found.batch_size <= most


# 3. A data set smaller than the batch


@pytest.mark.parametrize("samples", [1, 3, 100])
def test_3_the_data_set_ends_the_search(samples: int) -> None:
    """Lightning-AI/pytorch-lightning 3259, 19850: 67,108,864 for little data, and a search without end."""
    engine = SimulatedEngine(holding(10**6, dataset_size=samples))
    curve = climbed(engine)
    assert (curve.ceiling.batch_size, curve.ceiling.limited_by) == (samples, LimitedBy.DATASET)
    assert max(engine.tries) == samples
    assert len(engine.tries) <= 8


def test_3_a_trial_holds_as_many_samples_as_its_size_says() -> None:
    """Lightning-AI/pytorch-lightning 3259: a loader gave 10 samples at any size, or none at all."""
    data = TensorDataset(torch.arange(10.0))
    for loader in (DataLoader(data, batch_size=32), DataLoader(data, batch_size=32, drop_last=True)):
        samples = open_samples(loader)
        assert samples.size == 10
        for size in (1, 7, 10):
            (rows,) = samples.batch(size, seed=0)
            assert len(set(rows.tolist())) == size


# 4. The first size fails, or every size


def test_4_a_present_size_that_fails_is_no_end() -> None:
    """Lightning-AI/pytorch-lightning 3103: the first size tried did not fit, and the search gave up."""
    found = answered(holding(20, current_batch_size=64, dataset_size=10**4))
    assert found.ceiling.batch_size == 20
    assert found.batch_size <= 20


def test_4_where_nothing_fits_there_is_no_answer_but_the_figures() -> None:
    """ultralytics/ultralytics 25739: nothing fitted, and the training began at 16."""
    with pytest.raises(AutobatchError) as caught:
        answered(Machine(total_bytes=100 * MIB, fixed_bytes=150 * MIB), memory_bytes=100 * MIB)
    error = caught.value
    assert (error.code, error.message) == ("nothing_fits", "batch size 1 does not fit on simulated:0")
    assert error.facts[:2] == ("asked for 151 MiB", "training may take 100 MiB (simulated)")
    assert error.facts[2].startswith("predicted by a trace: 150 MiB of parameters")
    assert "smaller model" in error.hint
    assert [trial.outcome for trial in error.trials] == [Outcome.OUT_OF_MEMORY]


# 5. Fits in the search, and runs out of memory in the training

NEEDS_MOST_LATE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(256, 1024), nn.Linear(1024, 10)

    def forward(self, inputs):
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            hidden = self.first(inputs).relu()
            if not self.training:
                # As evaluations do: several views of a sample at once, in full precision.
                hidden = hidden.float().repeat(8, 1).unflatten(0, (8, -1)).mean(0)
            return self.last(hidden).float()

def build_model():
    return Net()

def make_optimizer(params):
    return torch.optim.Adam(params)

dataset = TensorDataset(torch.randn(2000, 256), torch.randint(10, (2000,)))
"""


@TESTDEV
def test_5_the_ceiling_holds_a_training_with_its_evaluation(
    shared_worker: SharedWorker, tmp_path: Path
) -> None:
    """Lightning-AI/pytorch-lightning 8028, 9625, 20231, 21154; ultralytics/ultralytics 1451, 4679.

    keras-team/keras 6217; kenshohara/3D-ResNets-PyTorch 72; unslothai/unsloth 1147.
    """
    ceiling = climbed_on_testdev(shared_worker, tmp_path / "net.py", NEEDS_MOST_LATE, 12 * MIB).ceiling
    assert ceiling.limited_by is LimitedBy.MEMORY
    assert ceiling.verified
    in_child(_train_for_long, tmp_path / "net.py", ceiling.batch_size)


def _train_for_long(model_file: Path, size: int) -> None:
    """Adam's state, autocast, and evaluations, as the user has them. More samples don't fit."""
    part = _loaded(model_file)
    model = part.build_model().to("testdev")
    optimizer = part.make_optimizer(model.parameters())
    for _ in range(3):
        for _ in range(10):
            _step(part, model, optimizer, size)
        _evaluate(part, model, size)
    # A search that only trains would have gone on.
    _step(part, model, optimizer, size + 2 * STRIDE)
    with pytest.raises(torch.OutOfMemoryError):
        _evaluate(part, model, size + 2 * STRIDE)


# 6. Minimum, maximum and multiples


def test_6_limits_of_the_users_hold() -> None:
    """Lightning-AI/pytorch-lightning 20614, 20364; ludwig-ai/ludwig 3958: no way to say what may be tried."""
    engine = SimulatedEngine(holding(10**6, current_batch_size=7))
    curve = climbed(engine, min_batch=10, max_batch=100, multiple_of=8)
    assert set(engine.tries) == {16, 32, 64, 96}
    assert (curve.ceiling.batch_size, curve.ceiling.limited_by) == (96, LimitedBy.MAX_BATCH)
    with pytest.raises(AutobatchError, match="`max_batch` 100 is below the smallest"):
        climbed(engine, min_batch=97, max_batch=100, multiple_of=8)


# 8. Memory stays pinned after an out-of-memory

PINS_ITS_MEMORY = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

kept = []

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 512), nn.Linear(512, 512), nn.Linear(512, 4)

    def forward(self, inputs):
        # As a hook or a traceback does: what was computed before the failure is never let go.
        kept.append(self.first(inputs))
        kept.append(self.second(kept[-1]))
        output = self.last(kept[-1])
        kept.clear()
        return output

def build_model():
    return Net()

def make_optimizer(params):
    return torch.optim.SGD(params, lr=0.01)

dataset = TensorDataset(torch.randn(4000, 8), torch.randint(4, (4000,)))
"""


@TESTDEV
def test_8_what_a_failed_size_holds_does_not_count_against_the_next(
    shared_worker: SharedWorker, tmp_path: Path
) -> None:
    """pytorch/pytorch 27600, 72117; optuna/optuna 5931: memory in use after the error was caught."""
    curve = climbed_on_testdev(shared_worker, tmp_path / "net.py", PINS_ITS_MEMORY, 6 * MIB)
    assert curve.ceiling.limited_by is LimitedBy.MEMORY
    # What is in use and what the allocator holds are told apart.
    for trial in curve.trials:
        assert not trial.ok or (trial.reserved_bytes or 0) >= (trial.peak_bytes or 0) > 0
    in_child(_pin, tmp_path / "net.py", curve.ceiling.batch_size)


def _pin(model_file: Path, size: int) -> None:
    """The ceiling fits, and is the largest; in one process it no longer fits after a failure."""
    part = _loaded(model_file)
    model = part.build_model().to("testdev")
    optimizer = part.make_optimizer(model.parameters())
    _step(part, model, optimizer, size)
    with pytest.raises(torch.OutOfMemoryError):
        _step(part, model, optimizer, size + 2 * STRIDE)
    part.kept.clear()
    _step(part, model, optimizer, size)
    with pytest.raises(torch.OutOfMemoryError):
        _step(part, model, optimizer, 3 * size)
    with pytest.raises(torch.OutOfMemoryError):
        _step(part, model, optimizer, size)


# 9. Fragmentation


class Fragmented(SimulatedEngine):
    """A CPU whose heap holds 30% less once a process has trained at another size."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._backend.kind = "cpu"

    def try_out(self, batch_size: int, seconds: float, steps: int) -> messages.Tried:
        whole = self.machine.total_bytes
        self.machine.total_bytes = whole if self.fresh else int(0.7 * whole)
        try:
            return super().try_out(batch_size, seconds, steps)
        finally:
            self.machine.total_bytes = whole


@pytest.mark.parametrize("most", [50, 333, 1100])
def test_9_a_fragmented_heap_does_not_understate_the_ceiling(most: int) -> None:
    """pytorch/pytorch 35901, 31353: a size failed that would have fitted into a new process."""
    engine = Fragmented(holding(most))
    ceiling = climbed(engine).ceiling
    assert ceiling.verified
    # A ceiling on a CPU leaves a tenth of the limit free: of 64 MiB that are fixed and 1 MiB a sample.
    assert 0.9 * (64 + most) - 64 - 2 <= ceiling.batch_size <= most
    # In one process it would have ended here.
    assert ceiling.batch_size > (0.7 * (64 + most)) - 64 + 1


# 11. The text of an out-of-memory varies


@pytest.mark.parametrize(
    "message",
    [
        "HIP out of memory. Tried to allocate 20.00 MiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "MPS backend out of memory (MPS allocated: 9.05 GiB)",
        "Invalid buffer size: 24.00 GB",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear for a non-contiguous input.",
        "std::bad_alloc",
    ],
)
def test_11_a_message_of_any_vendor_bounds_the_search(message: str) -> None:
    """mosaicml/composer 3397, huggingface/accelerate 4226, ultralytics/ultralytics 24569: not recognised."""
    machine = Machine(dataset_size=10**4, failures=dict.fromkeys(range(20, 129), message))
    ceiling = climbed(SimulatedEngine(machine)).ceiling
    assert (ceiling.batch_size, ceiling.limited_by) == (19, LimitedBy.MEMORY)


# 14. The CPU never runs out politely

HUNGRY = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        # 8 MiB a sample, and as much again for the step back.
        return (inputs.new_ones(len(inputs), 1 << 21) * self.scale)[:, :4].square()

model = Net()
dataset = TensorDataset(torch.randn(4096, 8), torch.randint(4, (4096,)))
"""


@pytest.mark.slow
def test_14_a_cpu_has_a_ceiling(tmp_path: Path) -> None:
    """ludwig-ai/ludwig 2455, 3007; Lightning-AI/pytorch-lightning 20364, 11295: no size ever failed."""
    model_file = tmp_path / "net.py"
    model_file.write_text(HUNGRY)
    limits = Limits(memory_bytes=160 * MIB, multiple_of=4, ceiling=True)
    # On a heap a new worker counts, so it isn't the shared one.
    recipe = messages.Recipe(target=str(model_file))
    with closing(LocalEngine(recipe, limits, "cpu", {}, print)) as engine:
        curve = Climb(engine, limits).run()
    assert curve.ceiling.limited_by is LimitedBy.MEMORY
    assert curve.ceiling.batch_size in (4, 8)
    failed = [trial for trial in curve.trials if not trial.ok]
    assert {trial.outcome for trial in failed} == {Outcome.OUT_OF_MEMORY}
    assert max(trial.batch_size for trial in failed) <= 16


class Killed(SimulatedEngine):
    """A machine that ends the process above 20 samples, as the kernel does when memory runs out."""

    def _before_step(self, size: int) -> None:
        if size > 20:
            raise CrashError("killed by SIGKILL (by the system if the machine ran out of memory)")


def test_14_a_kill_by_the_system_is_a_ceiling_of_memory() -> None:
    """Lightning-AI/pytorch-lightning 20364, 11295: the system killed the user's own process."""
    curve = climbed(Killed(holding(10**6)))
    assert (curve.ceiling.batch_size, curve.ceiling.limited_by) == (20, LimitedBy.MEMORY)
    assert curve.ceiling.verified


# 15. State is polluted


def test_15_a_training_goes_on_as_if_there_had_been_no_search() -> None:
    """Lightning-AI/pytorch-lightning 18394, 18834, 18813, 11012: weights, flags and counts changed."""

    def trained(*, search: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 4))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        data = (torch.randn(64, 8), torch.randint(0, 4, (64,)))
        for step in range(6):
            if search and step == 3:
                autobatch.find(model, data, optimizer=optimizer, limits=Limits(max_batch=4, budget_seconds=3))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
        return [*model.state_dict().values(), torch.get_rng_state()]

    for with_search, without in zip(trained(search=True), trained(search=False), strict=True):
        assert torch.equal(with_search, without)


# 16. Restart and resume


def test_16_a_resumed_training_has_the_size_that_it_began_with(tmp_path: Path) -> None:
    """huggingface/transformers 25956, 29518; UKPLab/sentence-transformers 3145.

    The size was sought anew on resume, from 8 on where the run had 2: 125 steps in all, 150 of them done.
    """
    first = answered(holding(2, dataset_size=100), objective=Objective.MEMORY)
    autobatch.save(first, tmp_path / "result.json")
    resumed = autobatch.load(tmp_path / "result.json")
    assert (first.batch_size, resumed.batch_size) == (2, 2)
    assert resumed.chosen.steps_per_epoch == 50
    assert resumed == first


# 17. The effective batch changes silently


@pytest.mark.parametrize("target", [8, 96, 128, 200, 997, 1000, 1024])
def test_17_the_effective_batch_is_what_was_asked_for(target: int) -> None:
    """huggingface/accelerate 3071, huggingface/transformers 33281, EuroEval 69, CUNY-CL/yoyodyne 204."""
    found = answered(holding(130, dataset_size=10**5), global_batch=target)
    assert found.batch_size * found.accumulation_steps * found.world_size == target
    assert found.global_batch_size == target
    assert found.batch_size <= 130


# 20. A slow, wasteful search


@pytest.mark.parametrize("most", [5, 8, 100, 1000, 7777])
def test_20_a_search_takes_two_tries_for_each_doubling_at_most(most: int) -> None:
    """huggingface/accelerate 3650, 4160: 26 attempts where 5 would do, each with the whole training."""
    engine = SimulatedEngine(holding(most))
    assert climbed(engine).ceiling.batch_size == most
    assert len(engine.tries) <= 2 * ceil(log2(most)) + 3


def test_20_a_trial_that_hangs_costs_its_timeout_once() -> None:
    """deepspeedai/DeepSpeed 4100: one hanging experiment held the search for ever."""
    engine = SimulatedEngine(holding(1000, hangs=set(range(16, 1001))))
    curve = climbed(engine)
    assert (curve.ceiling.batch_size, curve.ceiling.limited_by) == (8, LimitedBy.BUDGET)
    assert [size for size in engine.tries if size >= 16] == [16]


def test_20_the_budget_ends_the_search() -> None:
    """huggingface/transformers 32215: hours went by in a search that nothing bounded."""
    engine = SimulatedEngine(holding(10**6, step_seconds=lambda size: 0.01 * size))
    curve = climbed(engine, budget_seconds=30)
    assert curve.ceiling.limited_by is LimitedBy.BUDGET
    assert engine.busy_seconds <= 30 + 3 * 0.01 * max(engine.tries)


def climbed_on_testdev(shared_worker: SharedWorker, model_file: Path, source: str, limit_bytes: int) -> Curve:
    """The curve of a model file on the accelerator of the tests."""
    built_library()
    model_file.write_text(model_preamble(limit_bytes) + source)
    limits = Limits(ceiling=True, min_batch=STRIDE, multiple_of=STRIDE, budget_seconds=600.0)
    recipe = messages.Recipe(target=str(model_file))
    with closing(shared_worker.engine(recipe, limits, "testdev")) as engine:
        return Climb(engine, limits).run()


def _loaded(model_file: Path) -> Any:
    """The model file as a module, with the device that it brings, warmed up as a training is."""
    spec = importlib.util.spec_from_file_location("net", model_file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert testdev.is_available()
    return module


def _step(part: Any, model: nn.Module, optimizer: torch.optim.Optimizer, size: int) -> None:
    rows, labels = part.dataset[:size]
    loss = nn.functional.cross_entropy(model(rows.to("testdev")), labels.to("testdev"))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _evaluate(part: Any, model: nn.Module, size: int) -> None:
    model.eval()
    with torch.no_grad():
        model(part.dataset[:size][0].to("testdev"))
    model.train()
