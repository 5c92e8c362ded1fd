"""The steps of a LightningModule outside a `fit` are the steps of a `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from autobatch.records.errors import UsageError
from autobatch.records.limits import Precision
from autobatch.worker.session_setup import in_precision
from autobatch.workload.lightning.completion import completed
from autobatch.workload.parts import Parts
from tests.workload.lightning.modules import (
    DATASET,
    Hooked,
    Net,
    Own,
    fit,
    opened,
)


@pytest.mark.parametrize("kind", [Net, Hooked])
def test_measured_steps_are_the_steps_of_a_fit(kind: type[Net]) -> None:
    """Bit for bit: weights, buffers, and the order of the hooks."""
    torch.manual_seed(0)
    module, same = kind(), kind()
    same.load_state_dict(module.state_dict())
    fit(module)
    made = opened(same, DATASET)
    for start in range(0, 48, 8):
        made.step(made.load_rows(range(start, start + 8)))
    for name, value in module.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert same.calls == module.calls
    assert made.optimizer_steps == 6


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "optimizer": lambda one: one,
    "list": lambda one: [one],
    "two lists": lambda one: ([one], [torch.optim.lr_scheduler.StepLR(one, 1)]),
    "dict": lambda one: {"optimizer": one},
    "dict with scheduler": lambda one: {
        "optimizer": one,
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(one, 1),
    },
    "warm-up": lambda one: ([one], [torch.optim.lr_scheduler.LambdaLR(one, lambda step: step / 100)]),
    "one cycle": lambda one: {
        "optimizer": one,
        "lr_scheduler": {
            "scheduler": torch.optim.lr_scheduler.OneCycleLR(one, 0.1, total_steps=50),
            "interval": "step",
        },
    },
}


@pytest.mark.parametrize("form", SCHEDULES)
def test_every_form_of_configure_optimizers(form: str) -> None:
    class Formed(Net):
        def configure_optimizers(self) -> Any:
            return SCHEDULES[form](super().configure_optimizers())

    made = opened(Formed(), DATASET)
    workload = made.describe()
    # A warm-up's first rate is near zero: trainings with it would say that no size learns.
    assert (workload.optimizer, workload.learning_rate) == ("SGD", 0.1)
    assert workload.loss == "your `training_step`"
    scheduled = form not in ("optimizer", "list", "dict")
    assert any("schedule" in one for one in workload.inferred) == scheduled
    made.step(made.load(4, 0))
    assert made.optimizer_steps == 1


def test_several_optimizers_without_manual_optimization_are_lightnings_own_error() -> None:
    class Several(Net):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.Adam(self.parameters())]

    with pytest.raises(RuntimeError, match="multiple optimizers is only supported with manual"):
        opened(Several(), DATASET)


class Manual(Net):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.body[0].parameters(), lr=0.1), torch.optim.Adam(self.body[3].parameters())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(batch_idx)
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = self.loss_of(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)


def test_manual_optimization_runs_as_a_loop_of_its_own() -> None:
    torch.manual_seed(0)
    module, same = Manual(), Manual()
    same.load_state_dict(module.state_dict())
    fit(module)
    made = opened(same, DATASET)
    for start in range(0, 48, 8):
        made.step(made.load_rows(range(start, start + 8)))
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in module.state_dict().items())
    assert made.optimizer_steps == 12
    assert made.describe().optimizer == "SGD and Adam"
    assert "gradients to itself" in made.why_no_check


def test_a_precision_can_t_be_asked_of_manual_optimization() -> None:
    found = [completed(Parts(model=kind(), dataset=DATASET)) for kind in (Own, Manual)]
    assert in_precision(found[0], Precision.BF16).precision is Precision.BF16
    with pytest.raises(UsageError, match="a `step` of your own"):
        in_precision(found[1], Precision.BF16)


def eval_loss(module: Any, batch: Any) -> float:
    module.eval()
    with torch.no_grad():
        loss = float(module.loss_of(batch))
    module.train()
    return loss


def test_a_loss_that_validation_step_returns_is_judged_by() -> None:
    class Judged(Own):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": 3 * self.loss_of(batch)}

    made = opened(Judged())
    batch = made.load_validation(8, 0)
    assert float(made.evaluate(batch)) == pytest.approx(3 * eval_loss(made.model, batch))  # type: ignore[arg-type]
    assert made.model.training


def test_where_validation_step_only_logs_the_training_loss_is_taken_without_dropout() -> None:
    class Logging(Own):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss_of(batch))
            self.calls.append("validation_step")

    module = Logging()
    made = opened(module)
    batch = made.load_validation(8, 0)
    for _ in range(3):
        assert float(made.evaluate(batch)) == pytest.approx(eval_loss(module, batch))  # type: ignore[arg-type]
    assert module.calls.count("validation_step") == 1


def test_steps_that_are_replaced_are_named() -> None:
    class Replaced(Net):
        def configure_gradient_clipping(self, *arguments: Any, **options: Any) -> None: ...

    (remark,) = opened(Replaced(), DATASET).describe().inferred
    assert "`configure_gradient_clipping`" in remark
