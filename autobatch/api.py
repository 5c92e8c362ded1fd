"""Wiring: recipe -> worker -> climb -> recommendation."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from autobatch._version import __version__
from autobatch.engines import messages
from autobatch.engines.local import LocalEngine
from autobatch.engines.opening import EngineMaker, new_engine, refuse_in_worker
from autobatch.engines.ranks import membership
from autobatch.engines.ranks.membership import Meeting
from autobatch.measurement import rank_search
from autobatch.measurement.climb import Observer
from autobatch.measurement.pipeline import RECIPE_FIELDS_OF_CACHE, open_slot
from autobatch.planning import assembly, catalogue
from autobatch.planning.sample import as_dataset
from autobatch.progress.display import AUTO, Asked, display_for
from autobatch.records.formatting import parse_optimizer, parse_precision
from autobatch.records.limits import Limits, Precision
from autobatch.records.plan import Plan
from autobatch.records.preview import Preview
from autobatch.records.recommendation import Recommendation
from autobatch.storage.first_key import FirstKey

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from autobatch.workload.parts import Parts


def find(
    model: nn.Module | Callable[[], nn.Module],
    dataset: Any = None,
    *,
    loss_fn: Callable[..., Any] | None = None,
    optimizer: Optimizer | Callable[..., Any] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    val_dataset: Any = None,
    training_step: Callable[..., Any] | None = None,
    step: Callable[..., Any] | None = None,
    make_optimizers: Callable[[nn.Module], Any] | None = None,
    batch_size: int | None = None,
    accumulation_steps: int = 1,
    epochs: float | None = None,
    schedule: Mapping[str, int] | None = None,
    precision: str | None = None,
    parallelize: Callable[[nn.Module], nn.Module] | None = None,
    device: str | None = None,
    limits: Limits | None = None,
    fresh: bool = False,
    progress: Asked = AUTO,
) -> Recommendation:
    """One tuned batch size for a model on this machine, measured in a process of its own.

    `model`: an nn.Module, or a function that returns one. `dataset`: a map-style or iterable Dataset, a
    DataLoader (its workers are timed too), a tuple of tensors or arrays with one row a sample, a
    LightningDataModule, or a function that returns one of these. A LightningModule may have its own, and
    trains by its own `training_step`.
    `val_dataset`: the same, to judge short trainings on; without it a tenth of the training set is held out
    for that. `optimizer`: one that holds the model's parameters, or a function from parameters to an
    optimizer. `batch_size`: the current one, which the learning rate belongs to: samples of an optimizer
    step. `accumulation_steps`: the batches that it is made up of. `epochs`: those that you will train for:
    sizes are compared at their end. `schedule`: values counted in steps, such
    as {"warmup_steps": 500}, to be restated. `precision`: `fp32`, `bf16` or `fp16`,
    the latter two by autocast, fp16 with scaled gradients. `training_step(model, batch) -> loss`
    replaces forward and loss; `step(model, optimizers, batch)` makes the whole step, with the optimizers of
    `make_optimizers(model)`. What is left out is inferred where that is safe, and listed in the result's
    `workload.inferred`. The arguments are copied to the worker and never changed. An answer to the same
    question comes from the cache (`cached` is True then), unless it has to be `fresh`.
    `progress`: `auto` shows one live line on a terminal and in a notebook; True shows lines elsewhere too,
    False nothing; a function is called with a `Progress` at each event. The logger `autobatch` has the events
    at level INFO.

    In a running process group of several ranks, every rank has to call it, and all of them get the same
    answer: the steps that are measured are those of all ranks together, in DistributedDataParallel, or in
    what `parallelize(model)` returns (for example after `fully_shard(model)`). A model that is wrapped in
    DistributedDataParallel already is taken out of it, and wrapped anew.

    Raises AutobatchError (message, facts, hint) where something has to be repaired, and Interrupted, a
    KeyboardInterrupt that carries the `curve` so far, on Ctrl-C.
    """
    from autobatch.workload.parts import Parts, schedule_of

    parts = Parts(
        model=_undistributed(model),
        dataset=dataset,
        loss_fn=loss_fn,
        optimizer=optimizer,
        collate_fn=collate_fn,
        val_dataset=val_dataset,
        parallelize=parallelize,
        training_step=training_step,
        step=step,
        make_optimizers=make_optimizers,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        epochs=epochs,
        schedule=schedule_of(schedule or {}),
    )
    return find_parts(
        parts,
        limits or Limits(),
        precision=None if precision is None else parse_precision(precision),
        device=device,
        fresh=fresh,
        meeting=membership.of_group(),
        progress=progress,
    )


def find_parts(
    parts: Parts,
    limits: Limits,
    *,
    precision: Precision | None = None,
    device: str | None,
    fresh: bool = False,
    meeting: Meeting | None = None,
    progress: Asked = AUTO,
) -> Recommendation:
    """The recommendation for `parts`, which integrations fill with more than the arguments of `find`.

    `precision` is asked for in place of the parts' own. With a `meeting`, all of its ranks measure together;
    without one, this process measures alone.
    """
    refuse_in_worker()
    # Of several ranks, the first speaks for all.
    speaks = meeting is None or meeting.rank == 0
    display = display_for(progress if speaks else False, limits.budget_seconds)
    first_key = None if meeting is not None else _first_key_of(parts, limits, precision, device)
    if first_key is not None and not fresh and (answer := first_key.answer()) is not None:
        return answer
    with display, _sent(parts, precision) as recipe:
        return rank_search.search(
            recipe,
            limits,
            device=device,
            observer=display,
            on_output=display.print_line,
            fresh=fresh,
            meeting=meeting,
            first_key=first_key,
        )


def _first_key_of(
    parts: Parts, limits: Limits, precision: Precision | None, device: str | None
) -> FirstKey | None:
    """The first key of the caller's objects; None where they can't be digested completely."""
    from autobatch.workload import fingerprint, serialization
    from autobatch.workload.keras import detection

    if detection.is_model(parts.model):  # its archive changes with the weights
        return None
    objects = fingerprint.of_arguments(serialization.sendable(parts))
    asked = {"objects": objects, "precision": precision, "sys_path": sys.path}
    return FirstKey.of(limits, asked, device) if objects else None


@contextlib.contextmanager
def _sent(parts: Parts, precision: Precision | None) -> Iterator[messages.Recipe]:
    """The recipe of parts that lie in a file for the worker until the end of the block."""
    from autobatch.workload import serialization

    refuse_in_worker()
    with serialization.packed(serialization.sendable(parts)) as payload:
        yield messages.Recipe(
            payload=payload,
            sys_path=tuple(sys.path),
            precision=precision,
            frameworks=serialization.slow_frameworks(parts),
        )


def plan(
    model: nn.Module | Callable[[], nn.Module],
    data: Any = None,
    *,
    on: str | None = None,
    batch_size: int | None = None,
    loss_fn: Callable[..., Any] | None = None,
    optimizer: Optimizer | Callable[..., Any] | str | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    training_step: Callable[..., Any] | None = None,
    precision: str | None = None,
    channels_last: bool = False,
) -> Plan:
    """What fits on devices that need not be here, predicted from a training step without data.

    `data`: what `find` takes as its data set, or one sample (a dict, or a tuple that isn't arrays with one
    row a sample). `on`: devices by name, amounts of memory, `here`, with commas between; None takes the whole
    catalogue. `batch_size`: a size to ask about. `optimizer`: also a name, such as `adamw`, `sgd` or
    `sgd-momentum`. The rest is as in `find`. Nothing is run on a device, and the arguments are not changed.

    Raises AutobatchError (message, facts, hint) where something has to be repaired.
    """
    from autobatch.workload.parts import Parts

    named = parse_optimizer(optimizer) if isinstance(optimizer, str) else None
    parts = Parts(
        model=model,
        dataset=as_dataset(data),
        loss_fn=loss_fn,
        optimizer=None if isinstance(optimizer, str) else optimizer,
        collate_fn=collate_fn,
        training_step=training_step,
    )
    devices = catalogue.CATALOGUE if on is None else catalogue.parse_devices(on)
    with _sent(parts, None if precision is None else parse_precision(precision)) as recipe:
        recipe = msgspec.structs.replace(recipe, optimizer=named)
        return assembly.plan_recipe(recipe, devices, batch_size=batch_size, channels_last=channels_last)


def probe(
    recipe: messages.Recipe,
    limits: Limits,
    *,
    device: str | None = None,
    observer: Observer | None = None,
    on_output: Callable[[str], None] | None = None,
    fresh: bool = False,
    make_engine: EngineMaker = LocalEngine,
    meeting: Meeting | None = None,
) -> Recommendation:
    """The recommendation for a recipe of a target; `on_output` gets each line that the worker prints.

    It comes from the cache where it can, unless it has to be `fresh`. With a `meeting`, all of its ranks
    measure together and get the same answer; `observer` is heard by the first of them alone.
    """
    first_key = None
    # Ranks have to agree, and an engine elsewhere has files of its own.
    if meeting is None and make_engine is LocalEngine:
        asked = {name: getattr(recipe, name) for name in RECIPE_FIELDS_OF_CACHE}
        first_key = FirstKey.of(limits, asked, device)
        if not fresh and (answer := first_key.answer()) is not None:
            return answer
    return rank_search.search(
        recipe,
        limits,
        device=device,
        observer=observer,
        on_output=on_output,
        fresh=fresh,
        make_engine=make_engine,
        meeting=meeting,
        first_key=first_key,
    )


def preview(
    recipe: messages.Recipe,
    limits: Limits,
    *,
    device: str | None = None,
    on_output: Callable[[str], None] | None = None,
) -> Preview:
    """The search of a recipe as it would begin. A worker opens the workload, and measures nothing."""
    engine, _ = new_engine(recipe, limits, device, on_output)
    begin = time.monotonic()
    try:
        opened = engine.open()
        start_seconds = time.monotonic() - begin
        slot = open_slot(engine, recipe, limits)
        return Preview(
            workload=opened.workload,
            device=opened.device,
            limits=limits,
            batch_size_source=opened.batch_size_source,
            start_seconds=round(start_seconds, 3),
            cached=slot.answer() is not None,
            autobatch=__version__,
            torch=opened.torch,
        )
    finally:
        engine.close()


def _undistributed(model: Any) -> Any:
    """The model in a DistributedDataParallel; any other as it is."""
    return model.module if type(model).__name__ == "DistributedDataParallel" else model
