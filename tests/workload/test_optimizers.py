"""What is read from optimizers of every shape, and their learning rates scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from autobatch.records.errors import TargetError
from autobatch.records.workload import Decay
from autobatch.workload.optimizers import (
    as_optimizers,
    decays,
    kept_tensors,
    learning_rate,
    scale_learning_rates,
)


def a_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))


def in_groups(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    """A parameter group for each layer, with the nth value of each setting."""
    return [
        {"params": list(layer.parameters()), **{name: values[i] for name, values in settings.items()}}
        for i, layer in enumerate(model.children())
    ]


def sgd(**settings: Any) -> Optimizer:
    return SGD(a_model().parameters(), **({"lr": 0.1} | settings))


def adam(**settings: Any) -> Optimizer:
    return Adam(a_model().parameters(), **settings)


def rates(*optimizers: Optimizer) -> list[float]:
    return [float(group["lr"]) for one in optimizers for group in one.param_groups]


# Which optimizers there are


def test_one_several_or_a_dict_of_them() -> None:
    model = a_model()
    one, other = (SGD(layer.parameters(), lr=0.1) for layer in model.children())
    assert as_optimizers(one, model, "cpu") == [one]
    assert as_optimizers([one, other], model, "cpu") == [one, other]
    assert as_optimizers((other, one), model, "cpu") == [other, one]
    assert as_optimizers({"body": one, "head": other}, model, "cpu") == [one, other]
    assert as_optimizers(iter([one, other]), model, "cpu") == [one, other]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda model: None, "NoneType"),
        (lambda model: "adam", "str"),
        (lambda model: 0.1, "float"),
        (lambda model: SGD, "type"),
        (lambda model: [SGD(model.parameters(), lr=0.1), model], "Sequential"),
        (lambda model: {"lr": 0.1}, "float"),
        (lambda model: ([SGD(model.parameters(), lr=0.1)], []), "list"),
        (
            lambda model: torch.optim.lr_scheduler.StepLR(SGD(model.parameters(), lr=0.1), 1),
            "StepLR",
        ),
    ],
)
def test_what_is_no_optimizer_is_told(make: Callable[[nn.Module], Any], what: str) -> None:
    model = a_model()
    with pytest.raises(TargetError, match=f"the optimizer is a {what}") as told:
        as_optimizers(make(model), model, "cpu")
    assert told.value.code == "bad_optimizer"
    assert "make_optimizer" in told.value.hint


def test_an_optimizer_of_another_model_is_told() -> None:
    model = a_model()
    mine = SGD(model.parameters(), lr=0.1)
    with pytest.raises(TargetError, match="the Adam trains none of the model's parameters"):
        as_optimizers([mine, adam()], model, "cpu")


def test_an_optimizer_of_a_part_of_the_model_will_do() -> None:
    model = a_model()
    made = SGD([*model[1].parameters(), *a_model().parameters()], lr=0.1)  # type: ignore[index]
    assert as_optimizers(made, model, "cpu") == [made]


def test_no_optimizer_at_all_is_told() -> None:
    with pytest.raises(TargetError):
        as_optimizers([], a_model(), "cpu")


# The learning rate


def test_the_rate_that_all_groups_have() -> None:
    assert learning_rate([sgd(lr=0.3)]) == 0.3
    assert learning_rate([sgd(lr=0.3), adam(lr=0.3)]) == 0.3
    model = a_model()
    assert learning_rate([SGD(in_groups(model, lr=[0.2, 0.2]), lr=0.1)]) == 0.2


def test_no_rate_where_groups_or_optimizers_differ() -> None:
    assert learning_rate([SGD(in_groups(a_model(), lr=[0.2, 0.3]), lr=0.1)]) is None
    assert learning_rate([sgd(lr=0.3), adam(lr=0.1)]) is None
    assert learning_rate([]) is None


def test_a_rate_that_is_a_tensor_is_read_and_scaled() -> None:
    made = adam(lr=torch.tensor(0.25), capturable=False, foreach=False)
    assert learning_rate([made]) == 0.25
    scale_learning_rates([made], 3.0)
    assert learning_rate([made]) == 0.75
    assert isinstance(made.param_groups[0]["lr"], torch.Tensor)


@settings(max_examples=50, deadline=None)
@given(
    given_rates=st.lists(st.floats(1e-6, 10.0), min_size=4, max_size=4),
    factor=st.floats(0.01, 100.0),
)
def test_every_rate_of_every_group_is_scaled(given_rates: list[float], factor: float) -> None:
    made = [
        SGD(in_groups(a_model(), lr=given_rates[:2]), lr=0.1),
        AdamW(in_groups(a_model(), lr=given_rates[2:]), lr=0.1),
    ]
    scale_learning_rates(made, factor)
    assert rates(*made) == pytest.approx([factor * rate for rate in given_rates])


def test_a_rate_scaled_twice_is_scaled_by_both() -> None:
    made = sgd(lr=0.1)
    scale_learning_rates([made], 4.0)
    scale_learning_rates([made], 0.5)
    assert rates(made) == pytest.approx([0.2])


def test_nothing_else_is_scaled() -> None:
    made = adam(lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.02)
    scale_learning_rates([made], 10.0)
    (group,) = made.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.99), 1e-6, 0.02)


def test_a_step_goes_as_far_as_the_factor_says() -> None:
    def moved_by(factor: float) -> torch.Tensor:
        weight = nn.Parameter(torch.ones(3))
        made = SGD([weight], lr=0.5)
        scale_learning_rates([made], factor)
        (weight * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
        made.step()
        return weight.detach() - 1

    assert torch.allclose(moved_by(0.25), 0.25 * moved_by(1.0))


def test_a_scheduler_goes_on_from_the_scaled_rate() -> None:
    """It reckons from the rate that it found first, `initial_lr`."""
    made = sgd(lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(made, step_size=2, gamma=0.1)
    scale_learning_rates([made], 8.0)
    assert made.param_groups[0]["initial_lr"] == pytest.approx(0.8)
    for expected in (0.8, 0.08, 0.08, 0.008):
        made.step()
        schedule.step()
        assert rates(made) == pytest.approx([expected])


# State


def test_the_tensors_of_a_history_are_counted() -> None:
    model = a_model()
    made = torch.optim.LBFGS(model.parameters(), max_iter=2)
    counts = []
    for _ in range(3):

        def closure() -> torch.Tensor:
            made.zero_grad()
            loss = sum(parameter.square().sum() for parameter in model.parameters())
            assert isinstance(loss, torch.Tensor)
            loss.backward()
            return loss

        made.step(closure)
        counts.append(kept_tensors([made]))
    assert counts == sorted(set(counts)), "every step adds some"


def test_the_tensors_of_adam_stay_as_many() -> None:
    made = adam()
    assert kept_tensors([made]) == 0
    counts = set()
    for _ in range(2):
        for group in made.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        made.step()
        counts.add(kept_tensors([made, sgd()]))
    assert len(counts) == 1
    assert counts != {0}


# Decays


def test_momentum_is_read() -> None:
    assert decays([sgd(momentum=0.9)]) == (Decay(name="momentum", value=0.9),)
    assert decays([RMSprop(a_model().parameters(), momentum=0.8)]) == (Decay(name="momentum", value=0.8),)


def test_the_second_beta_is_read() -> None:
    assert decays([adam(betas=(0.9, 0.95))]) == (Decay(name="beta2", value=0.95),)
    assert decays([AdamW(a_model().parameters())]) == (Decay(name="beta2", value=0.999),)


def test_no_decay_where_there_is_no_momentum() -> None:
    assert decays([sgd()]) == ()
    assert decays([Adagrad(a_model().parameters())]) == ()
    assert decays([]) == ()


def test_optimizers_that_agree_share_a_decay() -> None:
    assert decays([adam(), AdamW(a_model().parameters())]) == (Decay(name="beta2", value=0.999),)


def test_optimizers_that_disagree_have_none() -> None:
    assert decays([adam(betas=(0.9, 0.95)), adam(betas=(0.9, 0.999))]) == ()
    assert decays([sgd(momentum=0.9), sgd(momentum=0.99)]) == ()
    disagreeing = [sgd(momentum=0.9), sgd(momentum=0.99), adam()]
    assert decays(disagreeing) == (Decay(name="beta2", value=0.999),)


def test_groups_that_disagree_have_none() -> None:
    assert decays([SGD(in_groups(a_model(), momentum=[0.9, 0.5]), lr=0.1)]) == ()


def test_optimizers_of_two_kinds_have_a_decay_each() -> None:
    """As where Muon's or SGD's momentum stands beside Adam's betas for the rest."""
    assert decays([sgd(momentum=0.95), adam(betas=(0.9, 0.99))]) == (
        Decay(name="momentum", value=0.95),
        Decay(name="beta2", value=0.99),
    )
