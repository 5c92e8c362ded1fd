"""What an answer is as a string."""

from __future__ import annotations

import subprocess
import sys

from autobatch.records.recommendation import Action, Confidence, Decision
from tests import builders


def test_an_answer_prints_in_a_few_lines() -> None:
    decision = Decision(action=Action.KEEP, batch_size=32, confidence=0.58, level=Confidence.LOW)
    answer = builders.recommendation(
        32, why="no size is surely\x1b faster", learning_rate=0.1, decision=decision
    )
    assert str(answer).splitlines() == [
        "Keep batch size 32, learning rate 0.1",
        "No size is surely\\x1b faster · confidence low (58%)",
        "Largest measured that fits: 4,096",
    ]
    accumulated = builders.recommendation(8, accumulation_steps=4, global_batch_size=32)
    assert str(accumulated).splitlines()[0] == "Use batch size 8 x 4 accumulation steps = 32"
    assert "trials=" in repr(answer)


def test_the_record_alone_brings_its_string() -> None:
    """The renderer lies above the records, which do not import it; importing any room sets it."""
    program = (
        "import sys; from autobatch.records import recommendation; "
        "print('autobatch.reports.text.answer' in sys.modules, recommendation._text_renderer is None)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "False False\n", ended.stderr
