from __future__ import annotations

from math import inf, nan

from hypothesis import given
from hypothesis import strategies as st

from autobatch.records.trial import Outcome
from autobatch.scripts.trainings import evaluations_of, training_of


@given(st.lists(st.floats(0.01, 10), min_size=4, max_size=200), st.integers(0, 50))
def test_trainings_of_any_length_share_their_windows(losses: list[float], more: int):
    longer = [*losses, *([1.0] * more)]
    short = evaluations_of(losses, [0.1] * len(losses))
    long = evaluations_of(longer, [0.1] * len(longer))
    assert [e.steps for e in long][: len(short)] == [e.steps for e in short]
    assert [len(e.losses) for e in long][: len(short)] == [len(e.losses) for e in short]


@given(st.lists(st.floats(0.01, 10), min_size=4, max_size=200))
def test_a_window_holds_nothing_but_its_own_losses(losses: list[float]):
    begin = 0
    for evaluation in evaluations_of(losses, [1.0] * len(losses)):
        window = losses[begin : evaluation.steps]
        assert min(window) - 1e-9 <= min(evaluation.losses)
        assert max(evaluation.losses) <= max(window) + 1e-9
        assert evaluation.seconds == evaluation.steps
        begin = evaluation.steps


def test_a_loss_that_is_no_number_is_a_divergence_at_its_step():
    for bad in (nan, inf, None):
        training = training_of(64, 2.0, [1.0, 0.9, bad, 0.8], [0.1] * 4)
        assert (training.outcome, training.steps) == (Outcome.DIVERGED, 2)
        assert not training.evaluations
