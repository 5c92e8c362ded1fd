"""The warnings that a report shows: few, the most useful first, none about sizes that nobody would use."""

from __future__ import annotations

from dataclasses import replace

from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Loader, LoaderTiming
from autobatch.reports.text.notices import SHOWN, notices
from tests import builders


def answer(*warnings: str, measured: tuple[str, ...] = ()) -> Recommendation:
    """An answer of 64 among the sizes from 1 to 1,024."""
    sizes = [2**power for power in range(11)]
    return builders.recommendation(
        64,
        trials=tuple(builders.trial(size) for size in sizes),
        warnings=(*measured, *warnings),
        measured_warnings=measured,
    )


def test_at_most_three_are_shown_and_none_is_lost() -> None:
    texts = tuple(f"problem {name}" for name in "abcde")
    shown, further = notices(answer(*texts))
    assert len(shown) == SHOWN
    assert shown + further == [f"Problem {name}" for name in "abcde"]


def test_warnings_about_the_answer_come_before_those_about_a_measurement() -> None:
    shown, _ = notices(answer("about the answer", measured=("about a measurement",)))
    assert shown == ["About the answer", "About a measurement"]


def test_sizes_far_from_the_answer_are_a_detail() -> None:
    far = "batch sizes below 2 can't be trained (one sample): leave out a last batch as small as that"
    near = "batch size 32 can't be trained, though smaller and larger ones can"
    several = "batch size 1, 2, 64 are too close to call"
    large = "whether batch size 1,024 is faster stayed within the noise"
    shown, further = notices(answer(measured=(far, near, several, large)))
    assert [text.split(" can't")[0] for text in shown] == [
        "Batch size 32",
        "Batch size 1, 2, 64 are too close to call",
    ]
    assert [text.split(" can't")[0] for text in further] == [
        "Batch sizes below 2",
        "Whether batch size 1,024 is faster stayed within the noise",
    ]


def loaded(sufficient: int | None) -> Recommendation:
    timings = (
        LoaderTiming(workers=0, batch_seconds=0.3),
        LoaderTiming(workers=2, batch_seconds=0.05),
    )
    loader = Loader(
        batch_size=64, workers=0, step_seconds=0.1, timings=timings, sufficient_workers=sufficient
    )
    return replace(answer("another"), loader=loader)


def test_workers_that_end_a_bottleneck_come_first() -> None:
    shown, _ = notices(loaded(2))
    assert shown == ["Loading is the bottleneck: set num_workers=2 (160 to 640 samples/s)", "Another"]
    assert notices(loaded(0))[0] == notices(loaded(None))[0] == ["Another"]


def test_a_name_at_the_beginning_stays_as_it_is() -> None:
    shown, _ = notices(answer("`xpu` is assumed", "beta2=0.9 is low", "interrupted: too early"))
    assert shown == ["`xpu` is assumed", "beta2=0.9 is low", "Interrupted: too early"]


def test_a_hostile_size_is_no_number() -> None:
    shown, _ = notices(answer("batch size " + "9" * 5000))
    assert shown == []
