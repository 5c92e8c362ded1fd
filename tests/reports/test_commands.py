"""The command that a report suggests: only where it would make the answer surer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.records.recommendation import Action, Confidence, Decision
from autobatch.records.trial import LimitedBy
from autobatch.reports.text.commands import next_commands
from tests import builders


@pytest.mark.parametrize("level", Confidence)
def test_a_low_confidence_asks_for_twice_the_budget(level: Confidence) -> None:
    decision = Decision(action=Action.KEEP, batch_size=8, confidence=0.5, level=level)
    commands = next_commands(builders.recommendation(8, decision=decision))
    wanted = ("autobatch probe model.py --budget 120s",) if level is Confidence.LOW else ()
    assert commands == wanted


@pytest.mark.parametrize("limited_by", LimitedBy)
def test_a_budget_that_ended_too_early_is_doubled(limited_by: LimitedBy) -> None:
    answer = builders.recommendation(8, ceiling=builders.ceiling(8, limited_by))
    assert bool(next_commands(answer)) is (limited_by is LimitedBy.BUDGET)


def test_an_interrupted_search_suggests_nothing() -> None:
    ceiling = builders.ceiling(8, LimitedBy.BUDGET, detail="interrupted")
    assert next_commands(builders.recommendation(8, ceiling=ceiling)) == ()


def test_objects_have_no_command() -> None:
    answer = builders.recommendation(8, ceiling=builders.ceiling(8, LimitedBy.BUDGET))
    workload = replace(answer.workload, target="the model given to `find`")
    assert next_commands(replace(answer, workload=workload)) == ()
