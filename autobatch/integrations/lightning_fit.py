"""A `fit` of Lightning after its set-up and before its loaders: measure its step, set its batch size."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from autobatch import api
from autobatch.decision import scaling
from autobatch.records.errors import UsageError
from autobatch.records.limits import Limits, Precision
from autobatch.records.recommendation import Recommendation
from autobatch.workload.lightning.detection import framework_of, is_datamodule
from autobatch.workload.parts import Parts, schedule_of

# With these no process has a whole model to measure.
_SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
# Other precisions convert the module itself, which the worker then receives.
_AUTOCAST = {"bf16-mixed": Precision.BF16, "16-mixed": Precision.FP16}
HINT = (
    "let `train_dataloader` use `self.batch_size` of the module or the data module, or name another "
    "attribute with `AutoBatch(attribute=...)`"
)


class Fit:
    """A `fit` that has set up its module and data. Raises UsageError where its batch size can't be set."""

    def __init__(self, trainer: Any, module: Any, attribute: str) -> None:
        self._trainer = trainer
        self._module = module
        self._attribute = attribute
        self._first_rates: list[float] = []
        utilities = f"{framework_of(module).__name__}.utilities"
        self._parsing = import_module(f"{utilities}.parsing")
        self._seed = import_module(f"{utilities}.seed")
        source = trainer.fit_loop._data_source.instance
        self._loader = None if source is module or is_datamodule(source) else source
        _check_trainer(trainer)
        if self._loader is not None:
            _check_resizable(self._loader)
        elif not self.has(attribute):
            raise UsageError(
                f"neither the module nor the data module has an attribute `{attribute}`",
                code="no_attribute",
                hint=HINT,
            )

    def has(self, name: str) -> bool:
        """True where the module, its hyperparameters or the data module have this attribute."""
        return bool(self._parsing.lightning_hasattr(self._module, name))

    @property
    def current(self) -> int | None:
        """The current batch size; None where the user has set none."""
        if self._loader is not None:
            size: Any = self._loader.batch_size
        else:
            size = self._value(self._attribute)
        return size if isinstance(size, int) and not isinstance(size, bool) and size >= 1 else None

    def find(self, limits: Limits) -> Recommendation:
        """Measure this training in a separate process."""
        trainer = self._trainer
        validation = trainer.fit_loop.epoch_loop.val_loop._data_source.instance
        if isinstance(validation, (list, tuple)) and validation:
            validation = validation[0]
        # The learning rate belongs to the samples of an optimizer step.
        current = self.current and self.current * trainer.accumulate_grad_batches
        parts = Parts(
            model=self._module,
            dataset=trainer.datamodule if self._loader is None else self._loader,
            val_dataset=validation if isinstance(validation, DataLoader) else None,
            batch_size=current,
            accumulation_steps=trainer.accumulate_grad_batches,
            epochs=float(trainer.max_epochs) if trainer.max_epochs and trainer.max_epochs > 0 else None,
            schedule=schedule_of({"max_steps": trainer.max_steps}),
            prepared=True,
        )
        return api.find_parts(
            parts,
            scaling.limits_of_a_rank(limits, trainer.world_size),
            precision=_AUTOCAST.get(trainer.precision) if self._module.automatic_optimization else None,
            device=str(trainer.strategy.root_device),
        )

    def set_sizes(self, batch_size: int, accumulation_steps: int, max_steps: int | None = None) -> None:
        """Let the training run with these sizes, and rebuild objects that Lightning made for others.

        `max_steps`: optimizer steps that cover the samples of the user's; None where no steps end it.
        """
        if accumulation_steps > 1 and not self._module.automatic_optimization:
            raise UsageError(
                f"{batch_size:,} × {accumulation_steps:,} samples a step: a module with "
                "`automatic_optimization = False` must accumulate its gradients itself",
                code="manual_accumulation",
                hint="leave out `global_batch`",
            )
        trainer, loop = self._trainer, self._trainer.fit_loop
        self._first_rates = self._rates()
        trainer.accumulate_grad_batches = accumulation_steps
        if max_steps is not None:
            loop.epoch_loop.max_steps = max_steps
        if self._loader is not None:
            loop._data_source.instance = _resized(self._loader, batch_size)
        else:
            self._set(self._attribute, batch_size)
        if loop._combined_loader is not None:
            # `estimated_stepping_batches` built it, for a schedule with the length of the old batch size.
            loop._combined_loader = None
            self._rebuild_optimizers()

    def scale_rate(self, name: str, factor: float) -> bool:
        """Multiply a learning rate and rebuild optimizers and schedules. False if they ignore the rate.

        A rate that `configure_optimizers` derives from the batch size has changed already: only the rest of
        the factor is applied.
        """
        self._rebuild_optimizers()
        derived = self._rates()
        own = derived[0] / self._first_rates[0] if derived and self._first_rates[0] else 1.0
        self._set(name, self._value(name) * factor / own)
        self._rebuild_optimizers()
        return factor == own or self._rates() != derived

    def _rebuild_optimizers(self) -> None:
        """Build the optimizers as Lightning does. A loader built on the way must not advance the RNG."""
        with self._seed.isolate_rng():
            self._trainer.strategy.setup_optimizers(self._trainer)

    def _value(self, name: str) -> Any:
        return self._parsing.lightning_getattr(self._module, name)

    def _set(self, name: str, value: Any) -> None:
        """Set an attribute everywhere, and in the initial hyperparameters, which Lightning logs."""
        self._parsing.lightning_setattr(self._module, name, value)
        for holder in (self._module, self._trainer.datamodule):
            initial = getattr(holder, "_hparams_initial", {})
            if name in initial:
                initial[name] = value

    def _rates(self) -> list[float]:
        optimizers = self._trainer.strategy.optimizers
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return [group["lr"] for group in groups if "lr" in group]


def _check_trainer(trainer: Any) -> None:
    strategy = type(trainer.strategy).__name__
    if strategy in _SHARDING:
        raise UsageError(
            f"a model that {strategy} shards over devices can't be measured",
            code="sharded_model",
            hint="leave out AutoBatch, and set the batch size yourself",
        )
    if any(type(callback).__name__ == "GradientAccumulationScheduler" for callback in trainer.callbacks):
        raise UsageError(
            "a GradientAccumulationScheduler changes the samples of a step from epoch to epoch",
            code="accumulation_schedule",
            hint="leave out one of the two callbacks",
        )


def _check_resizable(loader: Any) -> None:
    """Raises UsageError for a loader of `fit` that can't be rebuilt at another batch size."""
    if type(loader) is DataLoader and type(loader.batch_sampler) is BatchSampler:
        return
    if type(loader) is DataLoader and isinstance(loader.dataset, IterableDataset) and loader.batch_size:
        return
    description = type(loader).__name__
    if type(loader) is DataLoader:
        description = f"DataLoader with its {type(loader.batch_sampler).__name__}"
    raise UsageError(
        f"the {description} given to `fit` can't be rebuilt at another batch size",
        code="fixed_loader",
        hint="let `train_dataloader` of the module or of a data module build it, with `self.batch_size`",
    )


def _resized(loader: DataLoader[Any], batch_size: int) -> DataLoader[Any]:
    """The same loader at another batch size, with the same sampler, so that it draws the same samples."""
    streamed = isinstance(loader.dataset, IterableDataset)
    drop_last = loader.drop_last if streamed else loader.batch_sampler.drop_last  # type: ignore[union-attr]
    return DataLoader(
        loader.dataset,
        batch_size=batch_size,
        sampler=None if streamed else loader.sampler,
        drop_last=drop_last,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        in_order=loader.in_order,
    )
