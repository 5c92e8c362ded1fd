"""Wiring: recipe -> worker -> climb -> recommendation."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil

from autobatch import devices
from autobatch._version import __version__
from autobatch.check.assess import PROBE_SHARE, Assessment
from autobatch.devices import host
from autobatch.errors import UsageError
from autobatch.escaping import printable_output
from autobatch.probe import wire
from autobatch.probe.climb import Climb, Interrupted, Observer
from autobatch.probe.confirmation import confirm
from autobatch.probe.loading import Loading, usable_processors
from autobatch.probe.process import IN_WORKER, check_interpreter, worker_environment
from autobatch.probe.runner import Opened, WorkerEngine
from autobatch.recommender import recommend
from autobatch.records import Check, Curve, Device, Environment, Limits, Recommendation

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from autobatch.loaders import LoaderSettings

# Share of all processors that others use, above which spinning threads would ruin the timing.
_CONTENDED_PERCENT = 40.0


def find(
    model: nn.Module | Callable[[], nn.Module],
    dataset: Any,
    *,
    loss_fn: Callable[..., Any] | None = None,
    optimizer: Optimizer | Callable[..., Any] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    val_dataset: Any = None,
    training_step: Callable[..., Any] | None = None,
    batch_size: int | None = None,
    epochs: float | None = None,
    schedule: Mapping[str, int] | None = None,
    device: str | None = None,
    limits: Limits | None = None,
) -> Recommendation:
    """One tuned batch size for a model on this machine, measured in a process of its own.

    `model`: an nn.Module, or a function that returns one. `dataset`: a map-style or iterable Dataset, a
    DataLoader (its workers are timed too), or a tuple of tensors or arrays with one row a sample.
    `val_dataset`: the same, to judge short trainings on; without it a tenth of the training set is held out
    for that. `optimizer`: one that holds the model's parameters, or a function from parameters to an
    optimizer. `batch_size`: the present one, to compare with, which the learning rate is meant for.
    `epochs`: how many the training has, to warn where too few steps are left. `schedule`: what of it is
    counted in steps, such as {"warmup_steps": 500}, to be restated. `training_step(model, batch) -> loss`
    replaces forward and loss. What is left out is inferred where that is safe, and listed in the result's
    `workload.inferred`. The arguments are copied to the worker and never changed.

    Raises AutobatchError (message, facts, hint) where something has to be repaired, and Interrupted, a
    KeyboardInterrupt that carries the `curve` so far, on Ctrl-C.
    """
    limits = limits or Limits()
    dataset, loader, collate_fn, batch_size = _unwrap_loader(dataset, collate_fn, batch_size)
    val_dataset, _, val_collate_fn, _ = _unwrap_loader(val_dataset, None, None)
    objects = {
        "model": model,
        "dataset": dataset,
        "loader": loader,
        "loss_fn": loss_fn,
        "optimizer": optimizer,
        "collate_fn": collate_fn,
        "val_dataset": val_dataset,
        "val_collate_fn": val_collate_fn,
        "training_step": training_step,
        "batch_size": batch_size,
        "epochs": epochs,
        "schedule": None if schedule is None else dict(schedule),
    }
    from autobatch import shipping

    _refuse_in_worker()
    with shipping.packed(objects) as payload:
        recipe = wire.Recipe(payload=payload, sys_path=tuple(sys.path))
        return probe(recipe, limits, device=device)


def probe(
    recipe: wire.Recipe,
    limits: Limits,
    *,
    device: str | None = None,
    observer: Observer | None = None,
    on_output: Callable[[str], None] | None = None,
) -> Recommendation:
    """The recommendation for a recipe; `on_output` gets each line that the worker prints."""
    engine, contended = _engine(recipe, limits, device, on_output)
    watch = Watch(observer)
    try:
        curve = Climb(engine, limits, watch, PROBE_SHARE if limits.check else 1.0).run()
        curve = _loaded(engine, curve, limits, watch)
        check = _check(engine, curve, limits, watch) if limits.check else None
        curve = _confirmed(engine, curve, check, limits, watch)
    except Interrupted as stopped:
        # A second Ctrl-C must not cost what the first one kept.
        with contextlib.suppress(KeyboardInterrupt):
            engine.close()
        if stopped.curve is not None:
            stopped.recommendation = watch.finish(stopped.curve, limits, contended, stopped.check)
        raise
    finally:
        engine.close()
    return watch.finish(curve, limits, contended, check)


def _loaded(engine: WorkerEngine, curve: Curve, limits: Limits, watch: Watch) -> Curve:
    """The curve with how its training is loaded. Ctrl-C in it keeps what was measured."""
    loading = Loading(engine, curve, limits, usable_processors(), watch.checking)
    try:
        return replace(curve, loader=loading.run())
    except KeyboardInterrupt:
        raise Interrupted(replace(curve, loader=loading.loader)) from None


def _check(engine: WorkerEngine, curve: Curve, limits: Limits, watch: Watch) -> Check:
    """The generalization check. Ctrl-C in it keeps the curve, and what it has come to."""
    assessment = Assessment(engine, curve, limits, watch.checking)
    try:
        return assessment.run()
    except KeyboardInterrupt:
        raise Interrupted(curve, assessment.check) from None


def _confirmed(
    engine: WorkerEngine, curve: Curve, check: Check | None, limits: Limits, watch: Watch
) -> Curve:
    """The curve with its recommended size confirmed. Ctrl-C in it keeps all that was measured."""
    watch.checking("confirming the answer in a fresh process")
    try:
        return confirm(engine, curve, check, limits)
    except KeyboardInterrupt:
        raise Interrupted(curve, check) from None


def find_devices() -> tuple[Device, ...]:
    """Every device that torch sees here, read in a worker, so that this process holds none of them."""
    engine, _ = _engine(wire.Recipe(), Limits(), None, None)
    try:
        return engine.devices()
    finally:
        engine.close()


class Watch(Observer):
    """Passes everything on, and remembers what the environment record needs."""

    def __init__(self, inner: Observer | None) -> None:
        self._inner = inner or Observer()
        self._torch = ""
        self._started_at = datetime.now(UTC)
        self._begin = time.monotonic()
        self.trying = self._inner.trying  # type: ignore[method-assign]
        self.tried = self._inner.tried  # type: ignore[method-assign]
        self.checking = self._inner.checking  # type: ignore[method-assign]

    def opened(self, opened: Opened) -> None:
        self._torch = opened.torch
        self._inner.opened(opened)

    def finish(
        self, curve: Curve, limits: Limits, contended: bool, check: Check | None = None
    ) -> Recommendation:
        """The recommendation of a curve, with where and when it was measured."""
        if contended and curve.device.kind == "cpu":
            note = "other processes were busy, so waiting threads slept instead of spinning (OMP_WAIT_POLICY)"
            curve = replace(curve, warnings=(*curve.warnings, note))
        environment = Environment(
            autobatch=__version__,
            python=platform.python_version(),
            torch=self._torch,
            platform=platform.platform(),
            cpu=host.cpu_name(),
            started_at=self._started_at.isoformat(timespec="seconds"),
            elapsed_seconds=round(time.monotonic() - self._begin, 3),
        )
        return replace(recommend(curve, check, limits), environment=environment)


def _engine(
    recipe: wire.Recipe, limits: Limits, device: str | None, on_output: Callable[[str], None] | None
) -> tuple[WorkerEngine, bool]:
    _refuse_in_worker()
    check_interpreter()
    kind = devices.parse_name(device)[0] if device else None
    contended = kind in (None, "cpu") and psutil.cpu_percent(interval=0.1) > _CONTENDED_PERCENT
    environment = worker_environment(kind, contended=contended)
    return WorkerEngine(recipe, limits, device, environment, on_output or _to_stderr), contended


def _to_stderr(line: str) -> None:
    if sys.stderr is not None:
        print(printable_output(line, colour=sys.stderr.isatty()), file=sys.stderr)


def _refuse_in_worker() -> None:
    if IN_WORKER in os.environ:
        raise UsageError(
            "autobatch was called from a file that autobatch is measuring",
            code="nested_call",
            hint='put the call under `if __name__ == "__main__":`',
        )


def _unwrap_loader(
    data: Any, collate_fn: Callable[[list[Any]], Any] | None, batch_size: int | None
) -> tuple[Any, LoaderSettings | None, Callable[[list[Any]], Any] | None, int | None]:
    """(data set, settings, collate function, batch size) of a DataLoader; anything else as it is."""
    # A DataLoader can only come from a process that has imported torch already.
    if "torch" not in sys.modules:
        return data, None, collate_fn, batch_size
    from torch.utils.data import DataLoader

    from autobatch.loaders import settings_of
    from autobatch.samples import check_loader

    if not isinstance(data, DataLoader):
        return data, None, collate_fn, batch_size
    check_loader(data)
    return data.dataset, settings_of(data), collate_fn or data.collate_fn, batch_size or data.batch_size
