"""How a loss depends on the batch size, by its jumps."""

from __future__ import annotations

from autobatch.scripts.losses import LossGrowth, first_loss


def test_a_sum_grows_with_the_samples():
    growth = LossGrowth()
    growth.add(32, 60.0, 64, 118.0)
    growth.add(64, 110.0, 128, 214.0)
    assert growth.is_summed


def test_a_mean_stays():
    growth = LossGrowth()
    growth.add(32, 2.1, 64, 2.3)
    assert not growth.is_summed


def test_a_loss_that_training_lowers_is_no_sum():
    growth = LossGrowth()
    # The larger size came first, at weights that knew less.
    growth.add(128, 3.0, 64, 0.7)
    assert not growth.is_summed


def test_unknown_losses_say_nothing():
    growth = LossGrowth()
    growth.add(32, None, 64, 2.0)
    growth.add(32, -1.0, 64, 2.0)
    assert not growth.is_summed
    assert first_loss([1.0, None, 2.0]) is None
    assert first_loss([1.0, 2.0, 3.0, 100.0]) == 2.0
