"""The text report as people see it, in golden files at 80 columns. `pytest --update-golden` rewrites them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from autobatch.decision.recommender import recommend
from autobatch.records.check import Check, CheckStatus, Evaluation, NoisePoint, Training, Veto
from autobatch.records.device import Device, MemoryUser
from autobatch.records.errors import AutobatchError, DeviceError, TargetError
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.records.scaling import DeviceCount, Scaling
from autobatch.records.trial import (
    Ceiling,
    Communication,
    Curve,
    LimitedBy,
    Loader,
    LoaderTiming,
    Outcome,
    SizesPerRank,
    Trial,
)
from autobatch.records.workload import Decay, SampleSizes, SequenceLengths, StepCount, Workload
from autobatch.reports.text import terminal
from tests.strategies import recommendations

GIB, MIB = 2**30, 2**20
Golden = Callable[[str | Path, str], None]

GPU = Device(
    kind="cuda",
    index=0,
    name="NVIDIA H100 80GB HBM3",
    total_bytes=int(79.1 * GIB),
    free_bytes=int(78.4 * GIB),
    uuid="GPU-5e0c1f9a",
    driver="550.54.15",
)
CPU = Device(
    kind="cpu",
    index=0,
    name="AMD EPYC 7B13",
    total_bytes=8 * GIB,
    free_bytes=int(5.5 * GIB),
    threads=2,
    limit_bytes=600 * MIB,
    limit_source="--memory-limit",
)
IMAGES = Workload(
    target="model.py",
    model="ResNet",
    parameters=25_557_032,
    loss="cross_entropy",
    optimizer="AdamW",
    dataset="CIFAR10",
    dataset_size=50_000,
)
DIGITS = Workload(
    target="autobatch.examples.digits_cnn",
    model="DigitsCNN",
    parameters=38_282,
    loss="cross_entropy",
    optimizer="AdamW",
    dataset="digits",
    dataset_size=1437,
    inferred=(
        "loss is cross-entropy, as targets are whole numbers",
        "optimizer is AdamW, learning rate 0.001",
    ),
)
ENVIRONMENT = Environment(
    autobatch="0.1.0",
    python="3.12.7",
    torch="2.13.0",
    platform="Linux",
    cpu="AMD EPYC 7B13",
    started_at="2026-03-01T12:00:00Z",
    elapsed_seconds=43.0,
)


def passed(
    size: int,
    rate: float,
    spread: float,
    peak: float,
    busy: float | None,
    samples: int | None,
    *,
    reserved: float | None = None,
) -> Trial:
    """A size that passed at `rate` samples/s ± `spread`, with a peak in bytes, on `samples` of data."""
    steps = None if samples is None else -(-samples // size)
    return Trial(
        batch_size=size,
        outcome=Outcome.OK,
        step_seconds=(size / rate,) * 3,
        samples_per_second=rate,
        samples_per_second_interval=(rate - spread, rate + spread),
        steps_per_epoch=steps,
        epoch_seconds=None if steps is None else steps * size / rate,
        peak_bytes=int(peak),
        reserved_bytes=None if reserved is None else int(reserved),
        utilisation=busy,
        samples=size * 12,
        optimizer_steps=12,
    )


def failed(size: int, outcome: Outcome = Outcome.OUT_OF_MEMORY, detail: str = "", phase: str = "") -> Trial:
    return Trial(batch_size=size, outcome=outcome, detail=detail, phase=phase)


GPU_TRIALS = (
    passed(32, 783, 3, 7.0 * GIB, 0.71, 50_000, reserved=7.4 * GIB),
    passed(64, 920, 5, 12.5 * GIB, 0.84, 50_000, reserved=13.1 * GIB),
    passed(128, 1008, 2, 23.4 * GIB, 0.97, 50_000, reserved=24.5 * GIB),
    passed(256, 1057, 2, 45.1 * GIB, 0.99, 50_000, reserved=47.8 * GIB),
    failed(512, detail="asked for 88.6 GiB, 78.4 GiB free"),
)
CPU_TRIALS = (
    passed(1, 412, 31, 6.1 * MIB, 0.93, 1437),
    passed(2, 790, 44, 6.4 * MIB, 0.95, 1437),
    passed(4, 1490, 102, 7.2 * MIB, 0.97, 1437),
    passed(8, 2710, 95, 9.9 * MIB, 0.97, 1437),
    passed(16, 4420, 120, 14.6 * MIB, 0.98, 1437),
    passed(32, 6315, 340, 24.1 * MIB, 0.98, 1437),
    passed(64, 8120, 210, 43.3 * MIB, 0.99, 1437),
    passed(128, 9240, 160, 81.0 * MIB, 0.99, 1437),
    passed(256, 10_080, 1204, 157.2 * MIB, 0.99, 1437),
    passed(512, 10_115, 133, 309.7 * MIB, 1.0, 1437),
    failed(1024, detail="asked for 412 MiB, 291 MiB of the limit left"),
)
# The losses of the four held-out parts over their mean: equal ones would have no error.
PARTS = (0.98, 0.99, 1.01, 1.02)
TO_LOSS = Limits(objective=Objective.TIME_TO_LOSS)
GPU_ANSWER = Recommendation(
    batch_size=128,
    accumulation_steps=1,
    world_size=1,
    global_batch_size=128,
    learning_rate=None,
    ceiling=Ceiling(batch_size=256, limited_by=LimitedBy.MEMORY, verified=True),
    trials=GPU_TRIALS,
    check=None,
    why="the smallest size within 5% of the best throughput: 1,008 samples/s against 1,057 at 256",
    warnings=(),
    workload=IMAGES,
    device=GPU,
    environment=ENVIRONMENT,
)
CPU_ANSWER = replace(
    GPU_ANSWER,
    batch_size=256,
    global_batch_size=256,
    ceiling=Ceiling(batch_size=512, limited_by=LimitedBy.MEMORY, verified=True),
    trials=CPU_TRIALS,
    why="the smallest size within 5% of the best throughput: 10,080 samples/s against 10,115 at 512",
    workload=DIGITS,
    device=CPU,
    limits=Limits(memory_bytes=600 * MIB),
)


def plateau() -> Recommendation:
    return replace(
        CPU_ANSWER,
        device=replace(CPU, limit_bytes=int(5.2 * GIB), limit_source="cgroup memory.max"),
        ceiling=Ceiling(batch_size=512, limited_by=LimitedBy.PLATEAU, verified=False),
        trials=CPU_TRIALS[:-1],
        limits=Limits(),
        workload=replace(DIGITS, batch_size=32),
    )


def accumulation() -> Recommendation:
    return replace(
        GPU_ANSWER,
        accumulation_steps=4,
        global_batch_size=512,
        learning_rate=0.001414,
        why="512 samples per step were asked for; 4 steps of 128 are quicker than 2 of 256",
        limits=Limits(global_batch=512),
    )


def ranks() -> Recommendation:
    return replace(
        accumulation(),
        world_size=8,
        global_batch_size=4096,
        limits=Limits(global_batch=4096),
        check=Check(
            status=CheckStatus.NOISE_ONLY,
            detail="too little of the budget was left for trainings",
            batch_size=64,
            noise_scale=95.0,
            critical_batch_size=190.0,
            interval=(48.0, None),
            log_sd=0.83,
        ),
        communication=Communication(batch_size=128, step_seconds=0.139, alone_seconds=0.127),
        scaling=Scaling(
            counts=tuple(
                DeviceCount(
                    devices=devices, batch_size=size, global_batch_size=devices * size, relative_time=time
                )
                for devices, size, time in ((1, 128, 2.3), (4, 128, 1.12), (8, 128, 1.0), (11, 64, 0.98))
            ),
            useful_devices=11,
        ),
        sizes_per_rank=SizesPerRank(
            common_batch_size=128,
            batch_sizes=(144, 144, 144, 144, 144, 144, 80, 80),
            step_seconds=0.121,
            common_step_seconds=0.139,
        ),
    )


def training(size: int, factor: float, steps: int, loss: float, outcome: Outcome = Outcome.OK) -> Training:
    """A training whose loss falls from three times `loss` as steps go on."""
    evaluations = tuple(
        Evaluation(steps=at, seconds=at * size / 900, losses=(loss * (steps / at) ** 0.5,) * 4)
        for at in range(steps // 9, steps + 1, max(1, steps // 12))
    )
    return Training(
        batch_size=size,
        learning_rate_factor=factor,
        outcome=outcome,
        steps=steps,
        seconds=8.1,
        evaluations=evaluations,
        detail="the loss became infinite or not a number" if outcome is Outcome.DIVERGED else "",
    )


def checked() -> Recommendation:
    """A check with trainings and a veto, on a workload with all that has to change with the batch size."""
    trainings = (
        training(32, 1.0, 240, 2.31),
        training(128, 1.39, 70, 2.2),
        training(256, 1.55, 35, 2.4, Outcome.DIVERGED),
        training(256, 0.775, 37, 2.9),
    )
    check = Check(
        status=CheckStatus.VETOED,
        batch_size=32,
        noise_scale=95.0,
        critical_batch_size=173.0,
        interval=(66.0, 450.0),
        log_sd=0.6,
        held_out="1,024 validation samples",
        trainings=trainings,
        matched_loss=2.4,
        vetoed=(Veto(batch_size=256, reason="loss 2.91 against 2.42 at 32 after 35 steps each"),),
    )
    workload = replace(
        IMAGES,
        batch_size=32,
        learning_rate=0.001,
        epochs=1.0,
        decays=(Decay(name="beta2", value=0.999),),
        schedule=(StepCount(name="warmup_steps", steps=500), StepCount(name="max_steps", steps=140_000)),
    )
    curve = Curve(trials=GPU_TRIALS, ceiling=GPU_ANSWER.ceiling, workload=workload, device=GPU)
    return replace(recommend(curve, check, TO_LOSS), environment=ENVIRONMENT)


def too_small_a_device() -> Recommendation:
    """Memory ends far below the best size: accumulation is shown with its cost."""
    trials = (*GPU_TRIALS[:2], failed(128, detail="asked for 23.4 GiB, 16.0 GiB free"))
    check = replace(
        checked().check or Check(status=CheckStatus.NOT_RUN),
        status=CheckStatus.PASSED,
        critical_batch_size=1730.0,
        interval=(660.0, 4500.0),
        trainings=(training(32, 1.0, 240, 2.31), training(64, 1.4, 122, 2.2)),
        vetoed=(),
    )
    ceiling = Ceiling(batch_size=64, limited_by=LimitedBy.MEMORY, verified=True)
    workload = replace(IMAGES, batch_size=32, learning_rate=0.1, optimizer="SGD")
    curve = Curve(trials=trials, ceiling=ceiling, workload=workload, device=GPU)
    return replace(recommend(curve, check, TO_LOSS), environment=ENVIRONMENT)


def falling_training(size: int, factor: float, worse: float = 1.0) -> Training:
    """A training of DIGITS for 10 epochs, whose loss falls as 0.2 + 2 / sqrt(epochs), times `worse`."""
    samples = 1437
    rate = next(trial.samples_per_second or 0 for trial in CPU_TRIALS if trial.batch_size == size)
    at_steps = [round(10 * samples / size * 1.25**-power) for power in range(12, -1, -1)]
    evaluations = tuple(
        Evaluation(
            steps=steps,
            seconds=steps * size / rate,
            losses=tuple(worse * (0.2 + 2 * (steps * size / samples) ** -0.5) * part for part in PARTS),
        )
        for steps in at_steps
    )
    return Training(
        batch_size=size,
        learning_rate_factor=factor,
        outcome=Outcome.OK,
        steps=at_steps[-1],
        seconds=evaluations[-1].seconds,
        evaluations=evaluations,
    )


def judged(noise_scale: float, trainings: Sequence[Training], workload: Workload) -> Recommendation:
    """A decision for the same epochs, from a noise scale that stays as it is."""
    check = Check(
        status=CheckStatus.PASSED,
        batch_size=32,
        noise_scale=noise_scale,
        critical_batch_size=noise_scale,
        interval=(noise_scale / 1.6, noise_scale * 1.6),
        log_sd=0.28,
        noise_points=tuple(
            NoisePoint(samples_seen=seen, batch_size=noise_scale, low=noise_scale / 1.3)
            for seen in (500.0, 2_000.0, 8_000.0)
        ),
        held_out="143 samples of the training set",
        trainings=tuple(trainings),
        matched_loss=1.0,
    )
    curve = Curve(trials=CPU_TRIALS, ceiling=CPU_ANSWER.ceiling, workload=workload, device=CPU)
    return replace(recommend(curve, check), environment=ENVIRONMENT)


def same_epochs_change() -> Recommendation:
    """A larger size ends at the same loss; a still larger one would with more epochs."""
    workload = replace(DIGITS, batch_size=32, learning_rate=0.001, epochs=20.0)
    trainings = (falling_training(32, 1.0), falling_training(64, 1.4), falling_training(128, 1.9, 1.04))
    return judged(900.0, trainings, workload)


def same_epochs_keep() -> Recommendation:
    """Neither the current size nor the epochs are known, and the next larger size is hard to judge."""
    return judged(300.0, [falling_training(32, 1.0)], DIGITS)


def synthetic() -> Recommendation:
    trials = tuple(replace(trial, steps_per_epoch=None, epoch_seconds=None) for trial in GPU_TRIALS)
    workload = replace(IMAGES, target="model.py:net", dataset="", dataset_size=None, synthetic=True)
    return replace(GPU_ANSWER, trials=trials, workload=workload)


def one_size() -> Recommendation:
    return replace(
        GPU_ANSWER,
        batch_size=1,
        global_batch_size=1,
        ceiling=Ceiling(batch_size=1, limited_by=LimitedBy.DATASET, verified=False),
        trials=(
            replace(
                passed(1, 0.0521, 0, 61.5 * GIB, None, 1), samples_per_second_interval=None, utilisation=None
            ),
        ),
        why="the only size that could be tried",
        workload=replace(IMAGES, dataset="one volume", dataset_size=1, parameters=1),
    )


def refinements() -> Recommendation:
    sizes = (384, 448, 416, 432, 440, 444, 446, 447)
    lost = {448: 448, 447: 447, 446: 446}
    refined = [
        failed(size, detail=f"asked for {size * 0.17:.1f} GiB, 78.4 GiB free")
        if size in lost
        else replace(
            passed(size, 1050 + size / 100, 9, size * 0.176 * GIB, None, 50_000),
            samples_per_second_interval=None,
        )
        for size in sizes
    ]
    return replace(
        GPU_ANSWER,
        ceiling=Ceiling(batch_size=444, limited_by=LimitedBy.MEMORY, verified=True),
        trials=(*GPU_TRIALS, *refined),
        limits=Limits(ceiling=True),
        workload=replace(IMAGES, batch_size=64),
    )


def broken_rows() -> Recommendation:
    trials = (
        failed(
            1, Outcome.FAILED, "ValueError: Expected more than 1 value per channel when training", "forward"
        ),
        *GPU_TRIALS[:-1],
        failed(512, Outcome.CRASHED, "the worker was killed by SIGKILL (9)", "backward"),
        failed(384, Outcome.TIMEOUT, "no step finished in 120 s"),
        failed(
            320,
            Outcome.FAILED,
            "RuntimeError: shape '[320, 49152]' is invalid for input of size 15728640; " * 4,
            "evaluation",
        ),
    )
    return replace(
        GPU_ANSWER,
        trials=trials,
        ceiling=Ceiling(batch_size=256, limited_by=LimitedBy.BUDGET, verified=False),
    )


def warned() -> Recommendation:
    return replace(
        CPU_ANSWER,
        warnings=(
            "throughput varied by 12% between rounds of batch size 256: other programs were busy on this"
            " machine, so the figures are good to 1,008 ± 120 samples/s at best; close them and probe again",
            "loading a batch takes 34.1 ms against 25.4 ms for its step: with `num_workers=0` the data set"
            " would be the bottleneck, so use at least 2 workers",
        ),
    )


def varied() -> Recommendation:
    """Texts of many lengths, which loading holds back until there are more workers."""
    sizes = SampleSizes(
        scanned=2048,
        smallest=9,
        median=42.0,
        largest=209,
        tokens=SequenceLengths(mean=45.2, median=41.0, longest=208),
    )
    loader = Loader(
        batch_size=256,
        workers=0,
        step_seconds=256 / 1057,
        timings=tuple(
            LoaderTiming(workers=workers, batch_seconds=0.55 / max(workers, 1)) for workers in (0, 1, 2, 4)
        ),
        sufficient_workers=4,
    )
    workload = replace(IMAGES, model="Translator", dataset="Sentences", sizes=sizes, workers=0)
    curve = Curve(trials=GPU_TRIALS, ceiling=GPU_ANSWER.ceiling, workload=workload, device=GPU, loader=loader)
    return replace(recommend(curve), environment=ENVIRONMENT)


def slow_samples() -> Recommendation:
    """Images of many sizes from a slow disk, which no number of workers makes up for."""
    loader = Loader(
        batch_size=256,
        workers=0,
        step_seconds=256 / 1057,
        timings=(
            LoaderTiming(workers=0, batch_seconds=2.0),
            LoaderTiming(workers=1, batch_seconds=1.9),
            LoaderTiming(workers=2, batch_seconds=None, detail="OSError: [Errno 24] Too many open files"),
        ),
    )
    sizes = SampleSizes(scanned=57, smallest=3072, median=49_152.5, largest=150_528)
    workload = replace(IMAGES, sizes=sizes)
    curve = Curve(trials=GPU_TRIALS, ceiling=GPU_ANSWER.ceiling, workload=workload, device=GPU, loader=loader)
    return replace(recommend(curve), environment=ENVIRONMENT)


def hostile() -> Recommendation:
    device = replace(GPU, name="\x1b]0;owned\x07GPU\u202e drawkcab " + "very " * 30 + "long")
    workload = Workload(
        target="evil\x1b[2J.py; rm -rf ~",
        model="\x9b31mNet\r\n\x00" + "W" * 100,
        parameters=10**40,
        loss="损失函数" * 20,
        optimizer="\ud800Adam",
        dataset="画像データセット、とても長い名前" * 4,
        dataset_size=50_000,
        inferred=("\x1b[31mred",),
    )
    trials = (
        *GPU_TRIALS[:-1],
        failed(512, Outcome.FAILED, "错误、张量的形状不对。" * 30, "\x1b[1mforward"),
        failed(1024, Outcome.FAILED, "x" * 400),
        replace(passed(10**30, 10**22, 1e30, 2**300, 1e9, 50_000), steps_per_epoch=10**50),
    )
    return replace(
        GPU_ANSWER,
        device=device,
        workload=workload,
        trials=trials,
        why="\u2028new\x85line " + "y" * 200,
        warnings=("\x1b[5mblink\x1b[0m", "警告、" * 40),
    )


def stopped() -> Recommendation:
    """A search that Ctrl-C has ended after six sizes."""
    ceiling = Ceiling(batch_size=32, limited_by=LimitedBy.BUDGET, verified=False, detail="interrupted")
    workload = replace(DIGITS, batch_size=32)
    curve = Curve(
        trials=CPU_TRIALS[:6],
        ceiling=ceiling,
        workload=workload,
        device=CPU,
        warnings=("interrupted: only the sizes shown were measured",),
    )
    return replace(recommend(curve), environment=ENVIRONMENT)


CASES: dict[str, Callable[[], Recommendation]] = {
    "gpu": lambda: GPU_ANSWER,
    "cpu_limit": lambda: CPU_ANSWER,
    "plateau": plateau,
    "accumulation": accumulation,
    "ranks": ranks,
    "checked": checked,
    "too_small_a_device": too_small_a_device,
    "same_epochs_change": same_epochs_change,
    "same_epochs_keep": same_epochs_keep,
    "synthetic": synthetic,
    "one_size": one_size,
    "refinements": refinements,
    "broken_rows": broken_rows,
    "warnings": warned,
    "varied": varied,
    "slow_samples": slow_samples,
    "stopped": stopped,
    "hostile": hostile,
}


@pytest.mark.parametrize("name", CASES)
def test_report(name: str, golden: Golden) -> None:
    shown = terminal.render(CASES[name]())
    assert max(map(cell_len, shown.split("\n"))) <= 80
    assert all(line.isprintable() for line in shown.split("\n"))
    golden(f"text/{name}.txt", shown)


# A decision; short trainings and a veto; several ranks; loading; folded rows; failures; a stopped search.
DETAILED = ("same_epochs_change", "checked", "ranks", "varied", "refinements", "broken_rows", "stopped")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", DETAILED)
def test_detailed_report(name: str, width: int, golden: Golden) -> None:
    shown = terminal.render(CASES[name](), width=width, verbose=True)
    assert max(map(cell_len, shown.split("\n"))) <= width
    golden(f"text/{name}_detailed_at_{width}.txt", shown)


LONG_NAME = "Intel(R) Xeon(R) Platinum 8481C Processor with 56 Cores @ 2.7"


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("name", CASES)
def test_a_long_device_name_changes_the_header_alone(name: str, width: int, verbose: bool) -> None:
    """Each golden report on a device of another name: the header wraps, and no row moves."""
    assert len(LONG_NAME) >= 60
    answer = CASES[name]()
    longer = replace(answer, device=replace(answer.device, name=LONG_NAME))
    shown = terminal.render(longer, width=width, verbose=verbose)
    assert max(map(cell_len, shown.split("\n"))) <= width
    head, _, body = shown.partition("\n\n")
    short_head, _, short_body = terminal.render(answer, width=width, verbose=verbose).partition("\n\n")
    assert body == short_body
    # The name is cut at its end; the facts around it stay whole, and so do the lines below them.
    facts = " ".join(head.split())
    assert LONG_NAME[:35] in facts
    assert terminal.memory_text(answer.device) in facts
    first_of_model = next(line for line in short_head.split("\n")[1:] if not line.startswith("  "))
    assert head.endswith(short_head[short_head.index(first_of_model) :])


def test_a_long_device_name(golden: Golden) -> None:
    longer = replace(CPU_ANSWER, device=replace(CPU_ANSWER.device, name=LONG_NAME))
    golden("text/long_device_name.txt", terminal.render(longer))


@pytest.mark.parametrize("width", [40, 60, 120])
def test_other_widths(width: int, golden: Golden) -> None:
    shown = terminal.render(GPU_ANSWER, width=width)
    assert max(map(cell_len, shown.split("\n"))) <= width
    golden(f"text/gpu_at_{width}.txt", shown)


def test_in_colour(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour is the caller's choice: the environment changes nothing, and the words stay the same."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    golden("text/gpu_in_colour.txt", terminal.render(GPU_ANSWER, colour=True))


@pytest.mark.parametrize("colour", [False, True])
def test_a_preview_has_the_header_of_the_report(colour: bool) -> None:
    final = terminal.render(GPU_ANSWER, colour=colour).split("\n")
    assert terminal.header(GPU, IMAGES, colour=colour).split("\n") == final[:2]


ERRORS: Sequence[AutobatchError] = (
    DeviceError(
        "batch size 1 does not fit on cuda:0",
        code="too_small",
        facts=("asked for 92.4 GiB; 61.0 GiB free of 79.1 GiB", "18.1 GiB is held by pid 4242 (`python`)"),
        hint="stop that process, or use activation checkpointing or a smaller model",
    ),
    TargetError(
        "`model.py` raises an error when it is imported, and it is one that takes more than one line to tell",
        code="import_failed",
        facts=(
            'File "/data/a/rather/long/path/to/some/project/that/nobody/wants/to/see/cut/model.py", line 3\n'
            "    import torchvison\nModuleNotFoundError: No module named 'torchvison'\x1b[0m",
        ),
        hint="run `python model.py` by itself until it passes, then probe again with the same options",
    ),
    TargetError("no model was found", code="no_model"),
)


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_error(number: int, golden: Golden) -> None:
    golden(f"text/error_{number + 1}.txt", terminal.render_error(ERRORS[number]))


def test_error_in_colour(golden: Golden) -> None:
    golden("text/error_in_colour.txt", terminal.render_error(ERRORS[0], colour=True))


def test_devices(golden: Golden) -> None:
    busy = replace(
        GPU,
        index=1,
        free_bytes=61 * GIB,
        limit_bytes=61 * GIB,
        limit_source="what other processes leave free",
        utilisation=0.33,
        memory_users=(
            MemoryUser(pid=4242, name="python", memory_bytes=int(18.1 * GIB)),
            MemoryUser(pid=4243, name="\x1b[31mjupyter", memory_bytes=None),
        ),
    )
    cpu = replace(CPU, limit_source="cgroup memory.max", limit_bytes=4 * GIB)
    mps = Device(
        kind="mps",
        index=0,
        name="Apple M3 Max",
        total_bytes=36 * GIB,
        notes=("memory is shared with the CPU, so other programs take from it; " * 2 + "close them first",),
    )
    golden("text/devices.txt", terminal.render_devices((GPU, busy, cpu, mps)))
    golden("text/devices_none.txt", terminal.render_devices(()))


@settings(max_examples=60, deadline=None)
@given(
    recommendations(texts=st.text(st.characters(), max_size=200), floats=st.floats()),
    st.integers(40, 120),
    st.booleans(),
)
def test_any_answer_keeps_to_its_width_and_steers_nothing(
    recommendation: Recommendation, width: int, verbose: bool
) -> None:
    shown = terminal.render(recommendation, width=width, verbose=verbose)
    for line in shown.split("\n"):
        assert cell_len(line) <= width
        assert not {unicodedata.category(char) for char in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    coloured = terminal.render(recommendation, width=width, colour=True, verbose=verbose)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == shown
