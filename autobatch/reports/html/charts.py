"""All charts of an answer; here those of the check: loss over time, expected time over the batch size."""

from __future__ import annotations

from autobatch.records.check import Training
from autobatch.records.formatting import format_short_duration
from autobatch.records.recommendation import Candidate, Recommendation
from autobatch.records.trial import Outcome
from autobatch.reports.html import size_charts, svg
from autobatch.reports.html.chart import LARGEST, SIZE_LABEL, Chart, Point, dots, fits_chart, summary
from autobatch.reports.text.lines import clean

# Kinds of lines that a reader can tell apart; the first is the recommended size's.
STROKES = 6


def drawn(recommendation: Recommendation) -> list[Chart]:
    """Draw every chart that the answer has figures for."""
    charts = (
        size_charts.throughput(recommendation),
        size_charts.memory(recommendation),
        losses(recommendation),
        expected_time(recommendation),
    )
    return [chart for chart in charts if chart is not None]


def losses(recommendation: Recommendation) -> Chart | None:
    """Draw the loss on held-out samples over the seconds of each short training."""
    check = recommendation.check
    lines = [] if check is None else [(training, _losses(training)) for training in check.trainings]
    lines = [(training, points) for training, points in lines if len(points) > 1]
    if check is None or not lines:
        return None
    values = [loss for _, points in lines for _, loss in points]
    frame = svg.Frame(
        svg.amount_axis(
            max(at for _, points in lines for at, _ in points),
            "seconds of training",
            lambda value: f"{value:.3g}",
        ),
        svg.range_axis(values, "loss", lambda value: f"{value:.3g}"),
    )
    parts, legend = [], []
    others = 0
    for training, points in lines:
        words = _training_text(training)
        recommended = training.batch_size == recommendation.batch_size and training.outcome is Outcome.OK
        stroke = "line s0 own" if recommended else f"line s{1 + others % (STROKES - 1)}"
        others += not recommended
        parts.append(svg.curve(frame, points, stroke, f"{words}: loss {points[-1][1]:.3g} at the end"))
        if training.outcome is not Outcome.OK:
            parts.append(svg.cross(frame, *points[-1][:1], title=words, y=points[-1][1]))
        legend.append((stroke, words))
    matched = check.matched_loss
    if matched is not None and min(values) <= matched <= max(values):
        parts.append(svg.level(frame, matched, f"the same loss: {matched:.3g}"))
    ends = "; ".join(
        f"{words}, {points[-1][1]:.3g}" for (_, words), (_, points) in zip(legend, lines, strict=True)
    )
    return Chart(
        "Short trainings",
        svg.picture(f"Loss over seconds of training. Losses at the end: {ends}.", frame, *parts),
        "Loss on samples held out, from the same first weights.",
        tuple(legend),
    )


def expected_time(recommendation: Recommendation) -> Chart | None:
    """Draw the expected time to the same loss over the batch size, relative to the recommended size.

    None for a decision: it compares trainings of the same epochs, which end at different losses.
    """
    check = None if recommendation.decision is not None else recommendation.check
    given = [one for one in recommendation.candidates if fits_chart(one.batch_size)]
    plain = [one for one in given if one.accumulation_steps == 1 and 1e-6 < one.relative_time < 1e6]
    plain = sorted({one.batch_size: one for one in plain}.values(), key=lambda one: one.batch_size)
    if check is None or len(plain) < 2:
        return None
    vetoed = {veto.batch_size: clean(veto.reason) for veto in check.vetoed}
    allowed = [candidate for candidate in plain if candidate.batch_size not in vetoed] or plain
    times = [candidate.relative_time for candidate in allowed]
    frame = svg.Frame(
        svg.doubling_axis([float(candidate.batch_size) for candidate in plain], SIZE_LABEL),
        svg.range_axis(
            # Room for the name of the lowest point, which is mostly the recommended size.
            [0.8 * min(times), *times],
            "time to the same loss",
            lambda value: f"{value:.3g}×",
        ),
    )
    shown = [
        Point(candidate.batch_size, candidate.relative_time, _candidate_text(candidate))
        for candidate in allowed
    ]
    hollow = {candidate.batch_size for candidate in allowed if candidate.steps is None}
    parts = [svg.curve(frame, [(point.batch_size, point.value) for point in shown], "line expected")]
    parts += [
        svg.cross(frame, size, f"batch size {size} is vetoed: {vetoed[size]}")
        for size in (candidate.batch_size for candidate in plain)
        if size in vetoed
    ]
    caption = "Predicted from step times and the gradient's noise; 1× is the recommended size."
    if len(hollow) < len(allowed):
        caption += " Filled: sizes that were trained for a while as well."
    if vetoed:
        caption += " Crosses: vetoed sizes."
    return Chart(
        "Expected time",
        svg.picture(
            "Expected time to the same loss over batch size. " + summary(shown, recommendation),
            frame,
            *parts,
            *dots(frame, shown, recommendation, hollow, below=True),
        ),
        caption,
    )


def _losses(training: Training) -> list[tuple[float, float]]:
    """Return (seconds, mean loss) of each evaluation that a chart can hold."""
    points = [
        (evaluation.seconds, sum(evaluation.losses) / len(evaluation.losses))
        for evaluation in training.evaluations
        if evaluation.losses
    ]
    return [(at, loss) for at, loss in points if 0 <= at < LARGEST and abs(loss) < LARGEST]


def _training_text(training: Training) -> str:
    text = f"{training.batch_size}, learning rate ×{training.learning_rate_factor:.3g}"
    return text if training.outcome is Outcome.OK else f"{text}, {training.outcome.replace('_', ' ')}"


def _candidate_text(candidate: Candidate) -> str:
    text = f"batch size {candidate.batch_size}: {candidate.relative_time:.2f}× the time"
    if candidate.seconds_to_loss is None:
        return text
    return f"{text}; in its training {format_short_duration(candidate.seconds_to_loss)} to the same loss"
