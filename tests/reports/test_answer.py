"""The answer in words: a headline, its speedup and confidence, its memory, and faster alternatives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.records.recommendation import (
    Action,
    Alternative,
    AlternativeKind,
    Comparison,
    Confidence,
    Decision,
    Recommendation,
    SameEpochs,
)
from autobatch.records.trial import SizesPerRank
from autobatch.records.workload import StepCount
from autobatch.reports.text import answer
from autobatch.reports.text.lines import paint
from tests import builders
from tests.golden.test_text_report import CASES

CHANGE = Decision(action=Action.CHANGE, batch_size=64, confidence=0.94, level=Confidence.HIGH)
KEEP = Decision(action=Action.KEEP, batch_size=32, confidence=0.6, level=Confidence.LOW)


def row(batch_size: int, speedup: float = 1.0, harm: float | None = 1.0) -> SameEpochs:
    interval = (1.0, 1.0) if speedup == 1.0 else (0.9 * speedup, 1.1 * speedup)
    return SameEpochs(
        batch_size=batch_size,
        harm=harm,
        harm_low=harm,
        harm_high=harm,
        speedup=speedup,
        interval=interval,
        safe=True,
    )


def changed(**fields: object) -> Recommendation:
    current = builders.workload(batch_size=32, learning_rate=0.002, epochs=10.0)
    made = builders.recommendation(
        64,
        learning_rate=0.0025,
        decision=CHANGE,
        epochs=10.0,
        same_epochs=(row(32), row(64, 1.6)),
        workload=current,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def first_line(recommendation: Recommendation, width: int = 80) -> str:
    return paint(answer.lines(recommendation, width), colour=False).split("\n")[0]


def test_a_change_names_the_new_and_the_current_settings() -> None:
    line = first_line(changed())
    assert line.startswith("✔ Use batch size 64, learning rate 0.0025   ")
    assert line.endswith("current: 32, 0.002")
    assert len(line) <= 80
    assert answer.facts(changed())[0] == (
        "1.60x faster at your 10 epochs, expected loss within 2% (90% CI 1.44 to 1.76)"
        " · confidence high (94%)"
    )


def test_a_narrow_terminal_has_the_current_settings_below() -> None:
    shown = paint(answer.lines(changed(), 50), colour=False).split("\n")
    assert shown[1] == "  current: 32, 0.002"


def test_settings_that_stay_are_not_named_twice() -> None:
    kept = changed(batch_size=32, decision=KEEP, learning_rate=0.002, trials=(builders.trial(32),))
    assert answer.headline(kept) == "Keep batch size 32, learning rate 0.002"
    assert answer.current_text(kept) == ""
    another_rate = replace(kept, learning_rate=0.004)
    assert answer.current_text(another_rate) == "current: 0.002"


def test_the_reason_to_keep_has_its_confidence() -> None:
    kept = changed(
        batch_size=32, decision=KEEP, why="nothing is clearly faster", trials=(builders.trial(32),)
    )
    assert answer.facts(kept)[0] == "Nothing is clearly faster · confidence low (60%)"


def test_another_size_that_stands_for_the_current_one_is_named() -> None:
    unknown = changed(workload=builders.workload(), epochs=None)
    assert answer.reason_text(unknown).startswith("1.60x faster than batch size 32 at the same epochs, ")


def test_without_an_expected_loss_none_is_claimed() -> None:
    silent = changed(same_epochs=(row(32, harm=None), row(64, 1.6, harm=None)))
    assert answer.reason_text(silent) == "1.60x faster at your 10 epochs (90% CI 1.44 to 1.76)"


@pytest.mark.parametrize(
    ("epochs_ratio", "end"), [(1.21, "; needs 1.2x the epochs"), (1.01, "(90% CI 0.95 to 1.46)")]
)
def test_the_time_to_the_same_loss_is_compared_with_its_epochs(epochs_ratio: float, end: str) -> None:
    current = Comparison(batch_size=32, relative_time=1.22, low=0.95, high=1.46, epochs_ratio=epochs_ratio)
    text = answer.reason_text(changed(decision=None, current=current))
    assert text.startswith("1.22x faster to the same loss (90% CI 0.95 to 1.46)")
    assert text.endswith(end)


def test_an_answer_without_a_check_says_so() -> None:
    assert answer.facts(CASES["gpu"]())[0].endswith(" · convergence not checked")
    assert answer.facts(CASES["synthetic"]())[0].endswith(" · random inputs")


def test_a_stopped_search_recommends_nothing() -> None:
    stopped = CASES["stopped"]()
    assert answer.headline(stopped) == "Stopped after 6 sizes; no recommendation."
    assert answer.facts(stopped) == ["Largest measured that fits: 32"]
    assert answer.current_text(stopped) == ""


def test_steps_are_restated_with_their_current_number() -> None:
    schedule = (StepCount(name="warmup_steps", steps=250),)
    workload = replace(changed().workload, schedule=(StepCount(name="warmup_steps", steps=500),))
    facts = answer.facts(changed(workload=workload, schedule=schedule))
    assert facts[-1] == "Set warmup_steps 250 (was 500): as many samples as before"


@pytest.mark.parametrize(("step_seconds", "shown"), [(0.1, True), (0.2, False), (None, False)])
def test_sizes_by_rank_are_part_of_the_answer_where_they_are_faster(
    step_seconds: float | None, shown: bool
) -> None:
    sizes = SizesPerRank(
        common_batch_size=64, batch_sizes=(80, 48), step_seconds=step_seconds, common_step_seconds=0.12
    )
    facts = answer.facts(changed(sizes_per_rank=sizes))
    assert ("1.20x faster with a size for each rank: 80, 48" in facts) is shown


def test_an_alternative_says_what_it_changes() -> None:
    alternative = Alternative(
        kind=AlternativeKind.MORE_EPOCHS,
        batch_size=256,
        learning_rate_factor=None,
        epochs_ratio=2.1,
        epochs=21,
        speedup=1.3,
        interval=(1.1, 1.5),
    )
    (text,) = answer.alternatives(changed(alternatives=(alternative,)))
    assert text == (
        "With 2.1x the epochs (21), batch size 256 reaches that loss 1.30x sooner (90% CI 1.10 to 1.50): "
        "`--objective time-to-loss`"
    )
