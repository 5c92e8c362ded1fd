"""Where the time of a step goes at the recommended size, as far as its parts were measured."""

from __future__ import annotations

from statistics import median

from autobatch.records.formatting import format_milliseconds
from autobatch.records.recommendation import Recommendation
from autobatch.reports.html.markup import Markup, element
from autobatch.reports.html.tables import bar_cell, table_of

WAITING, COMMUNICATION = "waiting for data", "communication"
FIXED, SAMPLES = "fixed cost per step", "computation per sample"


def parts(recommendation: Recommendation) -> list[tuple[str, float]]:
    """Return (name, seconds) of each part of a step at the recommended size; empty without a fitted step.

    The fixed and the per-sample part are fitted to all sizes, waiting and communication were measured.
    """
    law, size = recommendation.step_time, recommendation.batch_size
    if law is None or not recommendation.chosen.step_seconds:
        return []
    fixed, samples = law.fixed_seconds, law.sample_seconds * size
    measured = recommendation.communication
    exchange = measured.seconds if measured is not None and measured.batch_size == size else 0.0
    made = [
        (WAITING, _waiting_seconds(recommendation)),
        (FIXED, max(0.0, fixed - exchange)),
        (SAMPLES, samples),
        (COMMUNICATION, exchange),
    ]
    return [(name, seconds) for name, seconds in made if 0 < seconds < 1e9]


def render(recommendation: Recommendation) -> Markup | None:
    """Build a table with a bar for each part; None where there are fewer than two."""
    made = parts(recommendation)
    if len(made) < 2:
        return None
    total = sum(seconds for _, seconds in made)
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", f"{format_milliseconds(seconds)} ms"),
            element("td", f"{seconds / total:.0%}"),
            bar_cell(seconds / total),
        )
        for name, seconds in made
    ]
    step = format_milliseconds(median(recommendation.chosen.step_seconds))
    caption = f"A step at batch size {recommendation.batch_size:,}: {step} ms measured, without loading"
    titles = [
        element("th", "part", scope="col"),
        element("th", "time", scope="col"),
        element("th", "share", scope="col"),
        element("td", class_="bar"),
    ]
    return table_of("Step time", titles, rows, caption, class_="parts")


def _waiting_seconds(recommendation: Recommendation) -> float:
    """Return the time that a step waits for its batch with the current workers."""
    loader = recommendation.loader
    if loader is None or not loader.timings or loader.batch_size != recommendation.batch_size:
        return 0.0
    pace = loader.pace_seconds(loader.timings[0])
    return 0.0 if pace is None else max(0.0, pace - loader.step_seconds)
