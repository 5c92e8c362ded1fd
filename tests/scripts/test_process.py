"""Sample scripts as they run: what is observed, measured in place, refused, and left as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from autobatch.decision.noise_scale import noise_scale
from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Outcome
from autobatch.scripts.command import Command
from autobatch.scripts.messages import Observation
from autobatch.scripts.process import ScriptEndedError, ScriptProcess
from autobatch.scripts.scratch import changes, listing, reads, scratch_folder
from tests.scripts.processes import SAMPLES, SECONDS, VARIABLES, measure, sample, started


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def parsed() -> Iterator[tuple[ScriptProcess, Observation]]:
    """The argparse sample, stopped after its first steps; its tests leave it stopped."""
    with started(sample("parsed.py", "--batch-size", "32", "--epochs", "1000", "--drop-last")) as process:
        yield process, process.observe(SECONDS)


def test_the_first_steps_show_what_is_trained(parsed: tuple[ScriptProcess, Observation]):
    _, seen = parsed
    assert seen.batch_size == 32
    assert seen.micro_batches == 1
    assert (seen.optimizer, seen.learning_rate, seen.decays) == ("SGD", 0.01, {"momentum": 0.9})
    assert seen.model == "Sequential"
    assert seen.parameters == 20 * 32 + 32 + 32 * 2 + 2
    assert seen.loader is not None
    assert (seen.loader.dataset, seen.loader.dataset_size) == ("TensorDataset", 2048)
    lines = (SAMPLES / "parsed.py").read_text().splitlines()
    assert "DataLoader(" in lines[seen.loader.line - 1]
    assert "optimizer.step()" in lines[seen.step_line - 1]
    flags = {sighting.name: sighting.value for sighting in seen.sightings}
    assert (flags["batch_size"], flags["epochs"]) == (32, 1000)
    assert seen.sources == [str(SAMPLES / "parsed.py")]
    assert all(loss is not None and 0 < loss < 2 for loss in seen.losses)


@pytest.mark.parametrize("size", [64, 16, 512])
def test_a_size_is_set_in_place_and_proven(parsed: tuple[ScriptProcess, Observation], size: int):
    process, _ = parsed
    (result,) = process.ask(measure(size), SECONDS)
    assert result["observed_size"] == size
    assert len(result["round_seconds"]) >= 3
    assert result["peak_bytes"] > 0


def test_gradients_at_frozen_weights_give_a_noise_scale(parsed: tuple[ScriptProcess, Observation]):
    process, _ = parsed
    order = {**measure(32), "do": "noise", "gradients": 24, "fewest": 4, "width": 1024, "seed": 0}
    (result,) = process.ask(order, SECONDS)
    (sums,) = result["optimizers"]
    assert len(sums["squared_norms"]) == 24
    found = noise_scale(32, sums["squared_norms"], sums["inner_products"], sums["sum_squared_norm"])
    assert found.valid
    assert found.low < found.batch_size < found.high


def test_trainings_start_from_the_same_weights(parsed: tuple[ScriptProcess, Observation], tmp_path: Path):
    process, _ = parsed
    kept = str(tmp_path / "weights.pt")
    order = {**measure(256), "do": "train", "steps": 12, "snapshot": kept}
    process.ask({"do": "save", "snapshot": kept}, SECONDS)
    still, again, fast = (
        process.ask(order | {"learning_rate_factor": factor}, SECONDS)[0]["losses"]
        for factor in (1e-6, 1e-6, 20.0)
    )
    # Weights that hardly move keep their loss; a much higher learning rate moves it.
    assert sum(still) == pytest.approx(sum(again), rel=0.1)
    assert abs(sum(fast) - sum(still)) > 2 * abs(sum(again) - sum(still))


def test_a_run_that_is_only_observed_ends_with_the_same_weights(tmp_path: Path):
    arguments = ("--batch-size", "64", "--epochs", "2", "--weights", str(tmp_path / "weights.pt"))
    command = sample("parsed.py", *arguments)
    with scratch_folder() as scratch:
        process = ScriptProcess(command, scratch)
        process.observe(SECONDS)
        assert process.release(SECONDS) == 0
        process.close()
        observed = torch.load(f"{scratch}/overlay{tmp_path}/weights.pt")
    subprocess.run(command.words, check=True, env=os.environ | command.environment, capture_output=True)
    alone = torch.load(tmp_path / "weights.pt")
    assert all(torch.equal(observed[name], alone[name]) for name in alone)


def test_a_measurement_leaves_the_folder_as_it_was(tmp_path: Path):
    (tmp_path / "log.txt").write_text("an earlier run\n")
    (tmp_path / "model.pt").write_bytes(b"earlier weights")
    before, date = listing(tmp_path), tmp_path.stat().st_mtime_ns
    with started(sample("parsed.py", "--samples", "256", "--epochs", "1000")) as process:
        process.observe(SECONDS)
        process.ask(measure(16, rounds=20), SECONDS)
        process.ask({"do": "evaluate", "dimension": 0}, SECONDS)
    assert changes(before, listing(tmp_path)) == ()
    assert tmp_path.stat().st_mtime_ns == date
    assert (tmp_path / "model.pt").read_bytes() == b"earlier weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "model.pt"]


def test_a_loader_in_code_is_given_its_size_when_it_is_made(tmp_path: Path):
    with started(sample("plain.py")) as process:
        seen = process.observe(SECONDS)
    assert seen.loader is not None
    assert seen.batch_size == 8
    in_code = {"file": seen.loader.file, "line": seen.loader.line, "current": 8, "batch_size": 24}
    with started(sample("plain.py"), in_code) as process:
        assert process.observe(SECONDS).batch_size == 24


def test_batches_without_a_loader_count_by_the_models_input():
    with started(sample("own_batches.py", "--batch_size=20")) as process:
        seen = process.observe(SECONDS)
        assert (seen.loader, seen.batch_size, seen.micro_batches) == (None, 20, 2)
        (result,) = process.ask(measure(20, in_place=False), SECONDS)
        assert result["observed_size"] == 20


def test_click_options_and_workers_and_several_optimizers():
    with started(sample("clicked.py", "-b", "32")) as process:
        seen = process.observe(SECONDS)
        assert seen.optimizers == ["Adam", "SGD"]
        assert {s.name: s.value for s in seen.sightings}["batch_size"] == 32
        # Batches that workers have prefetched come first.
        (result,) = process.ask(measure(128), SECONDS)
        assert result["observed_size"] == 128


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("no_torch", "no_torch"),
        ("lbfgs", "closure_optimizer"),
        ("own_updates", "own_updates"),
        ("no_steps", "no_steps"),
    ],
)
def test_a_script_without_a_batch_size_is_refused_by_name(kind: str, code: str):
    with (
        started(sample("unmeasurable.py", kind)) as process,
        pytest.raises(AutobatchError) as raised,
    ):
        process.observe(SECONDS)
    assert raised.value.code == code
    assert raised.value.hint


def test_a_crash_says_its_own_error():
    with (
        started(sample("unmeasurable.py", "crash")) as process,
        pytest.raises(ScriptEndedError) as raised,
    ):
        process.observe(SECONDS)
    assert raised.value.outcome is Outcome.FAILED
    assert raised.value.detail == "ValueError: the data are not there"


def test_a_hang_ends_at_its_time_limit_with_all_processes():
    shell = shutil.which("sh") or "sh"
    script = f"{sys.executable} {SAMPLES / 'unmeasurable.py'} hang & wait"
    with started(Command(words=(shell, "-c", script), variables=VARIABLES)) as process:
        with pytest.raises(ScriptEndedError) as raised:
            process.observe(2.0)
        assert raised.value.outcome is Outcome.TIMEOUT
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
    deadline = time.monotonic() + 10
    while any(child.is_running() and child.status() != "zombie" for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_memory_that_runs_out_is_an_outcome():
    command = sample("parsed.py", "--batch-size", "16", "--samples", "400000", "--epochs", "100")
    with scratch_folder() as scratch:
        process = ScriptProcess(command, scratch, limit_bytes=300 << 20)
        try:
            process.observe(SECONDS)
            with pytest.raises(ScriptEndedError) as raised:
                process.ask(measure(400_000), SECONDS)
        finally:
            process.close()
    assert raised.value.outcome is Outcome.OUT_OF_MEMORY


def test_two_ranks_of_torchrun_answer_together():
    torchrun = (sys.executable, "-m", "torch.distributed.run")
    words = (*torchrun, "--standalone", "--nproc-per-node", "2", str(SAMPLES / "ranks.py"))
    with started(Command(words=words, variables=VARIABLES)) as process:
        seen = process.observe(SECONDS)
        assert seen.world_size == 2
        results = process.ask(measure(64, settle=4), SECONDS)
        assert [result["observed_size"] for result in results] == [64, 64]
        order = {**measure(32, settle=4), "do": "noise", "gradients": 8, "fewest": 4, "width": 64, "seed": 0}
        first, second = (result["optimizers"][0] for result in process.ask(order, SECONDS))
        # Ranks average their gradients, so both see the same.
        assert first["squared_norms"] == pytest.approx(second["squared_norms"])
        assert len(first["squared_norms"]) >= 8


def test_a_training_of_one_epoch_lasts_as_long_as_it_is_measured():
    with started(sample("parsed.py", "--epochs", "1", "--samples", "320")) as process:
        assert process.observe(SECONDS).steps == 10
        for _ in range(4):
            (result,) = process.ask(measure(32, rounds=5), SECONDS)
            assert (result["ended"], result["steps"]) == (False, 15)


def test_evaluations_end_and_are_no_training_though_gradients_are_on():
    with started(sample("counted.py")) as process:
        seen = process.observe(SECONDS)
        # The first loader that is drawn from is that of the evaluation, made by the same line.
        assert (seen.batch_size, seen.other_fetches) == (16, 0)
        # Ten epochs, with an evaluation after each.
        (result,) = process.ask(measure(32, rounds=27), SECONDS)
        assert (result["steps"], result["ended"]) == (81, False)


def test_a_module_is_watched_through_a_shell(tmp_path: Path):
    package = tmp_path / "trains"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(SAMPLES / "parsed.py", package / "main.py")
    (tmp_path / "run.sh").write_text(f'exec {sys.executable} -m trains.main --batch-size 24 "$@"\n')
    shell = shutil.which("sh") or "sh"
    with started(Command(words=(shell, "run.sh", "--epochs", "1000"), variables=VARIABLES)) as process:
        seen = process.observe(SECONDS)
    assert seen.batch_size == 24
    assert seen.loader is not None
    assert seen.loader.file == str((package / "main.py").resolve())


def test_optimizers_that_train_against_each_other_are_measured_each(tmp_path: Path):
    kept = {"snapshot": str(tmp_path / "weights.pt")}
    with started(sample("adversaries.py")) as process:
        seen = process.observe(SECONDS)
        assert (seen.losses_apart, seen.micro_batches) == (2, 1)
        # The first optimizer steps while a backward pass of the second is still to come.
        process.ask({"do": "save", **kept}, SECONDS)
        process.ask({"do": "restore", **kept}, SECONDS)
        order = {**measure(16), "do": "noise", "gradients": 6, "fewest": 4, "width": 64, "seed": 0}
        (result,) = process.ask(order, SECONDS)
    first, second = result["optimizers"]
    assert len(first["squared_norms"]) >= 6
    assert len(second["squared_norms"]) >= 6
    assert first["sum_squared_norm"] != second["sum_squared_norm"]


def test_a_keras_model_is_trained_from_the_same_weights(tmp_path: Path):
    kept = str(tmp_path / "weights.pt")
    with started(sample("kerased.py")) as process:
        seen = process.observe(SECONDS)
        assert (seen.batch_size, seen.optimizer, seen.learning_rate) == (32, "Adam", pytest.approx(0.01))
        assert seen.decays == {"beta2": 0.999}
        order = {**measure(64), "do": "train", "steps": 12, "snapshot": kept}
        process.ask({"do": "save", "snapshot": kept}, SECONDS)
        still, again, fast = (
            process.ask(order | {"learning_rate_factor": factor}, SECONDS)[0]["losses"]
            for factor in (1e-6, 1e-6, 30.0)
        )
    assert sum(still) == pytest.approx(sum(again), rel=0.1)
    assert abs(sum(fast) - sum(still)) > 2 * abs(sum(again) - sum(still))


def test_a_measurement_ends_with_its_time():
    with started(sample("parsed.py", "--epochs", "1000")) as process:
        process.observe(SECONDS)
        order = measure(32, rounds=10_000_000) | {"seconds": 0.2}
        (result,) = process.ask(order, SECONDS)
    assert 1 <= len(result["round_seconds"]) < 10_000_000
    assert not result["ended"]


def test_the_files_that_were_read_are_listed(tmp_path: Path):
    data = tmp_path / "data.txt"
    data.write_text("8")
    program = f"open({str(data)!r}).read(); open('made.txt', 'w').write('x'); open('made.txt').read()"
    with scratch_folder() as scratch:
        process = ScriptProcess(Command(words=(sys.executable, "-c", program)), scratch)
        with pytest.raises(AutobatchError):
            process.observe(SECONDS)
        process.close()
        # A file that the script has made by itself is none of its inputs.
        assert reads(scratch) == (str(data),)


def test_a_spawned_training_knows_the_options_of_its_parent():
    with started(sample("spawning.py", "--batch-size", "24")) as process:
        seen = process.observe(SECONDS)
    assert seen.batch_size == 24
    assert {sighting.name: sighting.value for sighting in seen.sightings}["batch_size"] == 24
