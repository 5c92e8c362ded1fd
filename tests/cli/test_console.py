"""The answer of `-q`: the number on standard output, and a low confidence on standard error."""

from __future__ import annotations

import pytest

from autobatch.cli import console
from autobatch.records.recommendation import Action, Confidence, Decision
from tests import builders


def decision(level: Confidence, confidence: float) -> Decision:
    return Decision(action=Action.KEEP, batch_size=32, confidence=confidence, level=level)


def test_a_low_confidence_is_said_on_a_line_of_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    answer = builders.recommendation(32, why="too\nclose", decision=decision(Confidence.LOW, 0.58))
    console.print_size(answer)
    assert capsys.readouterr() == ("32\n", "confidence low (58%): too\\x0aclose\n")


@pytest.mark.parametrize("level", [Confidence.MEDIUM, Confidence.HIGH, None])
def test_otherwise_nothing_but_the_number_is_printed(
    capsys: pytest.CaptureFixture[str], level: Confidence | None
) -> None:
    decided = None if level is None else decision(level, 0.8)
    console.print_size(builders.recommendation(32, why="close", decision=decided))
    assert capsys.readouterr() == ("32\n", "")


def test_one_rank_speaks_for_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    console.print_size(builders.recommendation(32, decision=decision(Confidence.LOW, 0.5)))
    assert capsys.readouterr() == ("", "")
