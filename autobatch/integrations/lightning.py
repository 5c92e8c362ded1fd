"""`Trainer(callbacks=[AutoBatch()])`: measure and set the batch size before the training starts."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

from torch.utils.data import DataLoader

from autobatch.integrations.lightning_fit import HINT, Fit
from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.workload.lightning.detection import FRAMEWORKS

_RATES = ("lr", "learning_rate")


def _import_framework() -> Any:
    """The framework that the program has imported; both may be installed, and their classes differ."""
    imported = [name for name in FRAMEWORKS if name in sys.modules]
    for name in (*imported, *FRAMEWORKS):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise ImportError("Lightning is not installed: pip install lightning")


_framework = _import_framework()
_warn = import_module(f"{_framework.__name__}.utilities.rank_zero").rank_zero_warn


class AutoBatch(_framework.Callback):  # type: ignore[misc,name-defined]
    """Measure and set the batch size when `fit` begins, before Lightning builds a training loader.

    A training that `max_steps` ends takes as many samples as before: the steps are restated.

    `limits`: as for `autobatch.find`; `global_batch` applies to all ranks together, by accumulation if
    needed. `attribute`: the name of the batch size in the module, its hyperparameters or the data module.
    `learning_rate`: True also scales `lr` or `learning_rate`, a name scales that attribute; Lightning then
    rebuilds the optimizers.

    `recommendation` holds the result once `fit` has begun. It is None where nothing was measured: with
    `fast_dev_run`, and where the training resumes from a checkpoint, whose batch size applies.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        attribute: str = "batch_size",
        learning_rate: bool | str = False,
    ) -> None:
        self.recommendation: Recommendation | None = None
        # The size is decided with the rate that the training will have.
        self._limits = replace(limits or Limits(), keep_learning_rate=not learning_rate)
        self._attribute = attribute
        self._learning_rate = learning_rate
        self._applied: dict[str, int] = {}
        self._resumed: dict[str, int] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure and set the batch size. Raises AutobatchError where the user must change something."""
        self.recommendation = None
        self._applied = {}
        if trainer.fast_dev_run:
            return
        fit = Fit(trainer, pl_module, self._attribute)
        if trainer.ckpt_path is not None:
            self._resume(fit)
            return
        rate = self._rate_name(fit)
        recommendation = self._measure(trainer, fit)
        self.recommendation = recommendation
        steps = next((count.steps for count in recommendation.schedule if count.name == "max_steps"), None)
        self._apply(fit, recommendation.batch_size, recommendation.accumulation_steps, steps)
        self._scale_rate(fit, rate, recommendation)
        _log(trainer, recommendation)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Raises UsageError where the training's loader has another batch size than was set."""
        wanted = self._applied.get("batch_size")
        loader = trainer.train_dataloader
        actual = getattr(loader, "batch_size", None)
        if wanted is not None and isinstance(loader, DataLoader) and actual not in (wanted, None):
            raise UsageError(
                f"the training's DataLoader has batch size {actual:,}, although {wanted:,} was set",
                code="batch_size_ignored",
                facts=(f"`{self._attribute}` is now {wanted:,}",),
                hint=HINT,
            )

    def state_dict(self) -> dict[str, int]:
        """The batch size and accumulation of the training, for its checkpoints."""
        return dict(self._applied)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resumed = dict(state_dict)

    def _resume(self, fit: Fit) -> None:
        """Keep the batch size of a resumed training: its optimizer state and learning rate belong to it."""
        if not self._resumed:
            _warn(
                "AutoBatch: the checkpoint knows of no batch size from AutoBatch; "
                f"the training continues with its current batch size, {fit.current}"
            )
            return
        resumed = self._resumed
        self._apply(fit, resumed["batch_size"], resumed["accumulation_steps"], resumed.get("max_steps"))

    def _measure(self, trainer: Any, fit: Fit) -> Recommendation:
        """The recommendation, measured by rank 0. Raises its error in all ranks."""
        if trainer.world_size == 1:
            return fit.find(self._limits)
        recommendation: Recommendation | None = None
        error: AutobatchError | None = None
        if trainer.is_global_zero:
            try:
                recommendation = fit.find(self._limits)
            except AutobatchError as raised:
                error = raised
        recommendation, error = trainer.strategy.broadcast((recommendation, error), src=0)
        if error is not None:
            raise error
        assert recommendation is not None
        if self._limits.global_batch is None:
            samples = trainer.world_size * recommendation.batch_size
            _warn(
                f"AutoBatch: {recommendation.batch_size:,} is the best batch size of a single rank; "
                f"a step of all {trainer.world_size:,} ranks averages over {samples:,} samples"
            )
        return recommendation

    def _apply(
        self, fit: Fit, batch_size: int, accumulation_steps: int, max_steps: int | None = None
    ) -> None:
        fit.set_sizes(batch_size, accumulation_steps, max_steps)
        self._applied = {"batch_size": batch_size, "accumulation_steps": accumulation_steps}
        if max_steps is not None:
            self._applied["max_steps"] = max_steps

    def _rate_name(self, fit: Fit) -> str | None:
        """The attribute of the learning rate to scale; None where it stays. Raises UsageError if absent."""
        if not self._learning_rate:
            return None
        names = (self._learning_rate,) if isinstance(self._learning_rate, str) else _RATES
        for name in names:
            if fit.has(name):
                return name
        raise UsageError(
            f"the module has no learning rate {' or '.join(f'`{name}`' for name in names)}",
            code="no_attribute",
            hint="set `self.lr` and use it in `configure_optimizers`, or leave out `learning_rate`",
        )

    def _scale_rate(self, fit: Fit, name: str | None, recommendation: Recommendation) -> None:
        if name is None:
            return
        factor = recommendation.learning_rate_factor
        if factor is None:
            _warn(f"AutoBatch: there is no learning rate for the new batch size; `{name}` stays unchanged")
        elif not fit.scale_rate(name, factor):
            _warn(f"AutoBatch: setting `{name}` has no effect: `configure_optimizers` doesn't use it")


def _log(trainer: Any, recommendation: Recommendation) -> None:
    chosen: dict[str, Any] = {
        "autobatch/batch_size": recommendation.batch_size,
        "autobatch/accumulation_steps": recommendation.accumulation_steps,
    }
    if recommendation.learning_rate_factor is not None:
        chosen["autobatch/learning_rate_factor"] = recommendation.learning_rate_factor
    for logger in trainer.loggers:
        logger.log_hyperparams(chosen)
