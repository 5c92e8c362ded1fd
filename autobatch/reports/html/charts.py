"""The charts of an answer: throughput, memory and expected time over batch size, loss over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from autobatch.records.check import Training
from autobatch.records.formatting import format_bytes, format_rate, format_short_duration
from autobatch.records.recommendation import Candidate, Recommendation
from autobatch.records.trial import LimitedBy, Outcome, Trial
from autobatch.reports.html import svg
from autobatch.reports.html.markup import Markup
from autobatch.reports.text.lines import clean
from autobatch.reports.text.table import failure_text, latest

_SIZE = "batch size (logarithmic)"
# Nothing real reaches it, and beyond it figures have no place in a chart.
_LARGEST = 1e15
# A limit further above the highest peak than this would press the curve flat; then it is told in words.
_LIMIT_IN_SIGHT = 4.0
# Above the highest peak, for the words on a limit that is out of sight.
_HEADROOM = 1.25
# Lines that can be told apart, the first of them that of the recommended size.
STROKES = 6


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture, its title, what to know to read it, and (stroke, words) for each line that needs them."""

    title: str
    picture: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


def drawn(recommendation: Recommendation) -> list[Chart]:
    """Every chart that there are figures for."""
    found = (
        throughput(recommendation),
        memory(recommendation),
        losses(recommendation),
        expected_time(recommendation),
    )
    return [chart for chart in found if chart is not None]


def throughput(recommendation: Recommendation) -> Chart | None:
    """Samples a second over batch size, with their intervals."""
    trials = latest(recommendation)
    points = [(t, t.batch_size, t.samples_per_second or 0.0) for t in trials if t.ok and t.batch_size]
    points = [one for one in points if _plain(one[1]) and _plain(one[2])]
    if not points:
        return None
    failures = [t for t in trials if not t.ok and _plain(t.batch_size)]
    ends = [end for t, _, _ in points for end in t.samples_per_second_interval or () if _plain(end)]
    # A doubt larger than the figure itself must not press all others flat.
    top = max(rate for _, _, rate in points)
    top = max([top, *(end for end in ends if end < 1.4 * top)])
    frame = svg.Frame(
        _sizes([size for _, size, _ in points], failures),
        svg.amount_axis(top, "samples/s", lambda value: format_rate(value)),
    )
    parts = [
        svg.interval(frame, size, *trial.samples_per_second_interval)
        for trial, size, _ in points
        if trial.samples_per_second_interval and all(map(isfinite, trial.samples_per_second_interval))
    ]
    parts.append(svg.curve(frame, [(size, rate) for _, size, rate in points], "line"))
    told = [
        (size, rate, f"batch size {size}: {format_rate(rate, trial.samples_per_second_interval)} samples/s")
        for trial, size, rate in points
    ]
    caption = "Upright lines: 90% interval over separate rounds." if ends else ""
    return Chart(
        "Throughput",
        svg.picture(
            "Throughput over batch size. " + _summary(told, recommendation),
            frame,
            *parts,
            *_crosses(frame, failures),
            *_dots(frame, told, recommendation),
        ),
        _with_failures(caption, failures),
    )


def memory(recommendation: Recommendation) -> Chart | None:
    """The peak of memory over batch size, with what it must stay under."""
    trials = latest(recommendation)
    told = [
        (t.batch_size, float(t.peak_bytes), f"batch size {t.batch_size}: {format_bytes(t.peak_bytes)}")
        for t in trials
        if t.ok and t.peak_bytes and _plain(t.batch_size) and _plain(t.peak_bytes)
    ]
    if not told:
        return None
    device = recommendation.device
    limit, what = (device.free_bytes, "free") if device.limit_bytes is None else (device.limit_bytes, "limit")
    failures = [t for t in trials if t.outcome is Outcome.OUT_OF_MEMORY and _plain(t.batch_size)]
    top = max(peak for _, peak, _ in told)
    in_sight = limit is not None and _plain(limit) and limit < _LIMIT_IN_SIGHT * top
    frame = svg.Frame(
        _sizes([size for size, _, _ in told], failures),
        svg.amount_axis(
            max(top, limit or 0.0) if in_sight else _HEADROOM * top, "peak memory", _bytes_text, base=1024
        ),
    )
    parts = [svg.curve(frame, [(size, peak) for size, peak, _ in told], "line")]
    if limit is not None:
        words = f"{what} {format_bytes(limit)}"
        parts.append(svg.level(frame, limit, words) if in_sight else svg.remark(f"↑ {words}, far above"))
    ceiling = recommendation.ceiling
    if _plain(ceiling.batch_size) and ceiling.limited_by in (LimitedBy.MEMORY, LimitedBy.SIZE_LIMIT):
        parts.append(svg.upright(frame, ceiling.batch_size, f"ceiling {ceiling.batch_size}"))
    return Chart(
        "Memory",
        svg.picture(
            "Peak memory over batch size. " + _summary(told, recommendation),
            frame,
            *parts,
            *_crosses(frame, failures),
            *_dots(frame, told, recommendation),
        ),
        _with_failures("The most that training took at once, above the process at rest.", failures),
    )


def losses(recommendation: Recommendation) -> Chart | None:
    """The loss on samples held out over the seconds of each short training."""
    check = recommendation.check
    lines = [] if check is None else [(one, _falling(one)) for one in check.trainings]
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
        own = training.batch_size == recommendation.batch_size and training.outcome is Outcome.OK
        stroke = "line s0 own" if own else f"line s{1 + others % (STROKES - 1)}"
        others += not own
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
    """The expected time to the same loss over batch size, in units of that at the recommended size."""
    check = recommendation.check
    given = [one for one in recommendation.candidates if _plain(one.batch_size)]
    plain = [one for one in given if one.accumulation_steps == 1 and 1e-6 < one.relative_time < 1e6]
    plain = sorted({one.batch_size: one for one in plain}.values(), key=lambda one: one.batch_size)
    if check is None or len(plain) < 2:
        return None
    vetoed = {veto.batch_size: clean(veto.reason) for veto in check.vetoed}
    allowed = [one for one in plain if one.batch_size not in vetoed] or plain
    times = [one.relative_time for one in allowed]
    frame = svg.Frame(
        svg.doubling_axis([float(one.batch_size) for one in plain], _SIZE),
        svg.range_axis(
            # Room below the lowest point, which is the chosen one as a rule, for its name.
            [0.8 * min(times), *times],
            "time to the same loss",
            lambda value: f"{value:.3g}×",
        ),
    )
    told = [(one.batch_size, one.relative_time, _candidate_text(one)) for one in allowed]
    hollow = {one.batch_size for one in allowed if one.steps is None}
    parts = [svg.curve(frame, [(size, time) for size, time, _ in told], "line expected")]
    parts += [
        svg.cross(frame, one.batch_size, f"batch size {one.batch_size} is vetoed: {vetoed[one.batch_size]}")
        for one in plain
        if one.batch_size in vetoed
    ]
    caption = "Predicted from step times and the gradient's noise; 1× is the recommended size."
    if len(hollow) < len(allowed):
        caption += " Filled: sizes that were trained for a while as well."
    if vetoed:
        caption += " Crosses: vetoed sizes."
    return Chart(
        "Expected time",
        svg.picture(
            "Expected time to the same loss over batch size. " + _summary(told, recommendation),
            frame,
            *parts,
            *_dots(frame, told, recommendation, hollow, below=True),
        ),
        caption,
    )


def _plain(value: float) -> bool:
    """True for a figure that a chart can hold; a damaged or hostile file may hold any."""
    return 1 / _LARGEST < value < _LARGEST


def _bytes_text(value: float) -> str:
    return format_bytes(round(value)).replace(".0 ", " ")


def _sizes(sizes: Sequence[int], failures: Sequence[Trial]) -> svg.Axis:
    return svg.doubling_axis([float(size) for size in (*sizes, *(t.batch_size for t in failures))], _SIZE)


def _crosses(frame: svg.Frame, failures: Sequence[Trial]) -> list[Markup]:
    return [
        svg.cross(frame, trial.batch_size, f"batch size {trial.batch_size}: {failure_text(trial)}")
        for trial in failures
    ]


def _dots(
    frame: svg.Frame,
    told: Sequence[tuple[int, float, str]],
    recommendation: Recommendation,
    hollow: set[int] | frozenset[int] = frozenset(),
    *,
    below: bool = False,
) -> list[Markup]:
    """A dot for each size, the present and the chosen one last, with their names."""
    chosen, current = recommendation.batch_size, recommendation.workload.batch_size
    parts: list[Markup] = []
    named: list[Markup] = []
    for size, value, text in told:
        kind = "chosen" if size == chosen else "current" if size == current else "dot"
        kind += " hollow" if size in hollow else ""
        (parts if kind.startswith("dot") else named).append(
            svg.dot(frame, size, value, text, kind, 3.2 if kind.startswith("dot") else 5.5)
        )
        if size == chosen:
            named.append(svg.note(frame, size, value, f"use {size}", "use", below=below))
        elif size == current:
            named.append(svg.note(frame, size, value, f"now {size}", "now", below=not below))
    return parts + named


def _summary(told: Sequence[tuple[int, float, str]], recommendation: Recommendation) -> str:
    """The first, the last and the chosen point in words."""
    texts = [told[0][2], told[-1][2]] if len(told) > 1 else [told[0][2]]
    texts += [f"recommended: {text}" for size, _, text in told if size == recommendation.batch_size]
    return "; ".join(texts) + "."


def _with_failures(caption: str, failures: Sequence[Trial]) -> str:
    return " ".join(filter(None, (caption, "Crosses: sizes that failed." if failures else "")))


def _falling(training: Training) -> list[tuple[float, float]]:
    """(seconds, mean loss) of each evaluation that a chart can hold."""
    points = [(one.seconds, sum(one.losses) / len(one.losses)) for one in training.evaluations if one.losses]
    return [(at, loss) for at, loss in points if 0 <= at < _LARGEST and abs(loss) < _LARGEST]


def _training_text(training: Training) -> str:
    text = f"{training.batch_size}, learning rate ×{training.learning_rate_factor:.3g}"
    return text if training.outcome is Outcome.OK else f"{text}, {training.outcome.replace('_', ' ')}"


def _candidate_text(candidate: Candidate) -> str:
    text = f"batch size {candidate.batch_size}: {candidate.relative_time:.2f}× the time"
    if candidate.seconds_to_loss is None:
        return text
    return f"{text}; in its training {format_short_duration(candidate.seconds_to_loss)} to the same loss"
