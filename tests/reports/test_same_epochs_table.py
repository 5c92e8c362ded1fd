"""The table of a decision: which rows and columns it has, and how it marks them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.records.check import Check, CheckStatus, Veto
from autobatch.records.recommendation import Action, Confidence, Decision, Recommendation, SameEpochs
from autobatch.reports.text import same_epochs_table
from autobatch.reports.text.lines import paint
from autobatch.reports.text.size_marks import mark_of
from tests import builders

SIZES = tuple(2**power for power in range(12))


def row(batch_size: int, *, reference: int = 32, harm: float | None = 1.0) -> SameEpochs:
    """Speedups grow with the square root; sizes above 1.02 are unsafe."""
    speedup = (batch_size / reference) ** 0.5
    return SameEpochs(
        batch_size=batch_size,
        harm=harm,
        harm_low=None if harm is None else 0.99 * harm,
        harm_high=None if harm is None else 1.01 * harm,
        speedup=speedup,
        interval=(1.0, 1.0) if batch_size == reference else (0.9 * speedup, 1.1 * speedup),
        safe=harm is not None and harm <= 1.02,
    )


def decided(rows: list[SameEpochs], batch_size: int = 64, current: int | None = 32) -> Recommendation:
    return builders.recommendation(
        batch_size,
        same_epochs=tuple(rows),
        decision=Decision(action=Action.CHANGE, batch_size=batch_size, confidence=0.9, level=Confidence.HIGH),
        workload=builders.workload(batch_size=current),
    )


def text(recommendation: Recommendation, width: int = 80) -> list[str]:
    return paint(same_epochs_table.lines(recommendation, width), colour=False).splitlines()


def marks(recommendation: Recommendation) -> dict[int, str]:
    shown = same_epochs_table.rows(recommendation)
    return {each.batch_size: mark_of(each.batch_size, recommendation) for each in shown}


@pytest.mark.parametrize(
    ("answer", "reference", "shown"),
    [
        (32, 32, (4, 8, 16, 32, 64, 128, 256)),
        (1, 2, (1, 2, 4, 8, 16, 32, 64)),
        (256, 64, (32, 64, 128, 256, 512, 1024, 2048)),
        # The reference is far away, and takes the place of the size that is farthest from the answer.
        (2048, 4, (4, 64, 128, 256, 512, 1024, 2048)),
    ],
)
def test_the_rows_are_the_nearest_to_the_answer_and_the_reference(
    answer: int, reference: int, shown: tuple[int, ...]
) -> None:
    recommendation = decided([row(size, reference=reference) for size in SIZES], answer)
    assert tuple(each.batch_size for each in same_epochs_table.rows(recommendation)) == shown


def test_marks_of_the_current_the_recommended_and_unsafe_sizes() -> None:
    harms = {16: 0.99, 32: 1.0, 64: 1.01, 128: 1.03, 256: None}
    rows = [row(size, harm=harm) for size, harm in harms.items()]
    others = {16: "", 64: "recommended", 128: "loss +3%", 256: ""}
    assert marks(decided(rows)) == {32: "current", **others}
    # 32 stands for a current size that is unknown.
    assert marks(decided(rows, current=None)) == {32: "reference", **others}


def test_without_a_loss_curve_no_size_is_called_unsafe() -> None:
    recommendation = decided([row(size, harm=None) for size in (32, 64, 128)], batch_size=32)
    assert marks(recommendation) == {32: "current", 64: "", 128: ""}
    assert text(recommendation)[0].split() == ["batch", "speedup", "90%", "CI"]


def test_a_veto_takes_the_place_of_the_figures() -> None:
    check = Check(status=CheckStatus.VETOED, vetoed=(Veto(batch_size=128, reason="worse\x1b"),))
    rows = [row(32), row(64), row(128, harm=None)]
    assert text(replace(decided(rows), check=check))[-1] == "     128   vetoed: worse\\x1b"


@pytest.mark.parametrize(
    ("width", "titles"),
    [(80, ["speedup", "90%", "CI", "final", "loss"]), (40, ["speedup", "final", "loss"])],
)
def test_a_narrow_terminal_loses_the_interval(width: int, titles: list[str]) -> None:
    shown = text(decided([row(32), row(64, harm=1.25), row(128, harm=1.5)], current=None), width)
    assert max(map(len, shown)) <= width
    assert shown[0].split() == ["batch", *titles]
    assert shown[2].split()[:2] == ["64", "1.41x"]
    assert shown[2].endswith("1.25x  recommended")
    assert shown[3].endswith("1.50x  loss +50%")


def test_there_is_no_table_without_a_decision_or_a_comparison() -> None:
    assert text(replace(decided([row(32), row(64)]), decision=None)) == []
    assert text(decided([row(32)], batch_size=32)) == []
