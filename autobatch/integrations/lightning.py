"""`Trainer(callbacks=[AutoBatch()])`: the batch size is measured before the training starts, and set."""

from __future__ import annotations

import sys
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
    """The framework as the program knows it; both names may be installed, and their classes differ."""
    named = [name for name in FRAMEWORKS if name in sys.modules]
    for name in (*named, *FRAMEWORKS):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise ImportError("Lightning is not installed: pip install lightning")


_framework = _import_framework()
_warn = import_module(f"{_framework.__name__}.utilities.rank_zero").rank_zero_warn


class AutoBatch(_framework.Callback):  # type: ignore[misc,name-defined]
    """Measures and sets the batch size when `fit` begins, before a loader of the training is made.

    `limits`: as for `autobatch.find`; `global_batch` is met over all ranks, by accumulation if need be.
    `attribute`: the name under which the module, its hyperparameters or the data module hold the batch size.
    `learning_rate`: True scales `lr` or `learning_rate` along, a name scales that; the optimizers are made
    again with it.

    `recommendation` holds the result once `fit` has begun; it is None where nothing was measured: with
    `fast_dev_run`, and where the training is resumed from a checkpoint, whose batch size is taken.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        attribute: str = "batch_size",
        learning_rate: bool | str = False,
    ) -> None:
        self.recommendation: Recommendation | None = None
        self._limits = limits or Limits()
        self._attribute = attribute
        self._learning_rate = learning_rate
        self._applied: dict[str, int] = {}
        self._resumed: dict[str, int] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Measures and sets. Raises AutobatchError where something has to be repaired."""
        self.recommendation = None
        self._applied = {}
        if trainer.fast_dev_run:
            return
        fit = Fit(trainer, pl_module, self._attribute)
        if trainer.ckpt_path is not None:
            self._resume(fit)
            return
        rate = self._rate_name(fit)
        found = self._measured(trainer, fit)
        self.recommendation = found
        self._apply(fit, found.batch_size, found.accumulation_steps)
        self._scale_rate(fit, rate, found)
        _log(trainer, found)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Raises UsageError where the training's loader has another batch size than the one that was set."""
        wanted = self._applied.get("batch_size")
        loader = trainer.train_dataloader
        actual = getattr(loader, "batch_size", None)
        if wanted is not None and isinstance(loader, DataLoader) and actual not in (wanted, None):
            raise UsageError(
                f"the training's DataLoader has batch size {actual:,}, although {wanted:,} was set",
                code="batch_size_ignored",
                facts=(f"`{self._attribute}` is {wanted:,} now",),
                hint=HINT,
            )

    def state_dict(self) -> dict[str, int]:
        """The sizes that the training runs with, for its checkpoints."""
        return dict(self._applied)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resumed = dict(state_dict)

    def _resume(self, fit: Fit) -> None:
        """A training that goes on keeps its batch size: its optimizer's state and its rate belong to it."""
        if not self._resumed:
            _warn(
                "AutoBatch: the checkpoint knows of no batch size that was measured; "
                f"the training goes on with its own, {fit.current}"
            )
            return
        self._apply(fit, self._resumed["batch_size"], self._resumed["accumulation_steps"])

    def _measured(self, trainer: Any, fit: Fit) -> Recommendation:
        """The recommendation, measured by one process. Raises in all of them what was raised in that one."""
        if trainer.world_size == 1:
            return fit.find(self._limits)
        found: Recommendation | None = None
        error: AutobatchError | None = None
        if trainer.is_global_zero:
            try:
                found = fit.find(self._limits)
            except AutobatchError as raised:
                error = raised
        found, error = trainer.strategy.broadcast((found, error), src=0)
        if error is not None:
            raise error
        assert found is not None
        if self._limits.global_batch is None:
            _warn(
                f"AutoBatch: {found.batch_size:,} is the best size of one rank alone; a step of all "
                f"{trainer.world_size:,} averages over {trainer.world_size * found.batch_size:,} samples"
            )
        return found

    def _apply(self, fit: Fit, batch_size: int, accumulation_steps: int) -> None:
        fit.set_sizes(batch_size, accumulation_steps)
        self._applied = {"batch_size": batch_size, "accumulation_steps": accumulation_steps}

    def _rate_name(self, fit: Fit) -> str | None:
        """The name of the rate to set; None where it was not asked for. Raises UsageError without one."""
        if not self._learning_rate:
            return None
        names = (self._learning_rate,) if isinstance(self._learning_rate, str) else _RATES
        for name in names:
            if fit.has(name):
                return name
        raise UsageError(
            f"the module has no learning rate that could be set: {' or '.join(f'`{one}`' for one in names)}",
            code="no_attribute",
            hint="keep it as `self.lr` and use that in `configure_optimizers`, or leave `learning_rate` out",
        )

    def _scale_rate(self, fit: Fit, name: str | None, found: Recommendation) -> None:
        if name is None:
            return
        factor = found.learning_rate_factor
        if factor is None:
            _warn(f"AutoBatch: no learning rate was found for the new size; `{name}` stays as it is")
        elif not fit.scale_rate(name, factor):
            _warn(f"AutoBatch: setting `{name}` changed nothing: `configure_optimizers` doesn't use it")


def _log(trainer: Any, found: Recommendation) -> None:
    chosen: dict[str, Any] = {
        "autobatch/batch_size": found.batch_size,
        "autobatch/accumulation_steps": found.accumulation_steps,
    }
    if found.learning_rate_factor is not None:
        chosen["autobatch/learning_rate_factor"] = found.learning_rate_factor
    for logger in trainer.loggers:
        logger.log_hyperparams(chosen)
