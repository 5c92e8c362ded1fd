"""The loop of a user's `step`."""

from __future__ import annotations

import torch
from torch import nn

from tests.workload.trainings import INPUTS, trainer


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(2, 4)
        self.critic = nn.Linear(4, 1)


def gan_optimizers(model: Gan) -> dict[str, torch.optim.Optimizer]:
    return {
        "generator": torch.optim.Adam(model.generator.parameters()),
        "critic": torch.optim.SGD(model.critic.parameters(), lr=0.01),
    }


def gan_step(model: Gan, optimizers: list[torch.optim.Optimizer], batch: torch.Tensor) -> None:
    generator, critic = optimizers
    fake = model.generator(torch.randn(len(batch), 2))
    critic.zero_grad()
    (model.critic(fake.detach()).mean() - model.critic(batch).mean()).backward()
    critic.step()
    generator.zero_grad()
    (-model.critic(fake).mean()).backward()
    generator.step()


def test_a_loop_with_several_optimizers() -> None:
    made = trainer(Gan(), INPUTS, step=gan_step, make_optimizers=gan_optimizers)
    assert made.describe().optimizer == "Adam and SGD"
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    for _ in range(3):
        assert made.step(made.load(4, 0)) is None
    made.evaluate(made.load(4, 0))
    assert made.optimizer_steps == 6
    after = made.model.state_dict()
    # A mean of differences leaves the critic's bias without a gradient.
    changed = {name for name, value in after.items() if not torch.equal(before[name], value)}
    assert changed == {"generator.weight", "generator.bias", "critic.weight"}
