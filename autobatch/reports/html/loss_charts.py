"""The charts of the short trainings: the loss over seconds, and over epochs."""

from __future__ import annotations

from collections.abc import Callable

from autobatch.records.check import Evaluation, Training
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Outcome
from autobatch.reports.html import axes, svg
from autobatch.reports.html.chart import LARGEST, Chart
from autobatch.reports.html.markup import Markup
from autobatch.reports.text.size_marks import is_answer

# Kinds of lines that a reader can tell apart; the first is the recommended size's.
STROKES = 6
_RADIUS = 1.9
Curve = tuple[Training, list[tuple[float, float]]]


def over_seconds(recommendation: Recommendation) -> Chart | None:
    """Draw the loss on held-out samples over the seconds of each short training."""
    curves = _curves(recommendation, lambda training, evaluation: evaluation.seconds)
    caption = "Loss on held-out samples, from the same first weights. Dots: evaluations."
    return _chart("Loss over time", "seconds of training", caption, curves, recommendation)


def over_epochs(recommendation: Recommendation) -> Chart | None:
    """Draw the same losses over epochs, or over samples where the size of the data set is unknown."""
    size, ranks = recommendation.workload.dataset_size, recommendation.world_size

    def progress(training: Training, evaluation: Evaluation) -> float:
        return evaluation.steps * training.batch_size * ranks / (size or 1)

    label = "epochs" if size else "samples"
    caption = "The same trainings at equal epochs: the price of a larger batch."
    return _chart(f"Loss over {label}", label, caption, _curves(recommendation, progress), recommendation)


def _curves(recommendation: Recommendation, progress: Callable[[Training, Evaluation], float]) -> list[Curve]:
    """Return each training with (progress, mean loss) of the evaluations that a chart can hold."""
    trainings = () if recommendation.check is None else recommendation.check.trainings
    curves = [
        (
            training,
            [
                (at, loss)
                for evaluation in training.evaluations
                if evaluation.losses
                and 0 <= (at := progress(training, evaluation)) < LARGEST
                and abs(loss := sum(evaluation.losses) / len(evaluation.losses)) < LARGEST
            ],
        )
        for training in trainings
    ]
    return [(training, points) for training, points in curves if len(points) > 1]


def _chart(
    title: str, label: str, caption: str, curves: list[Curve], recommendation: Recommendation
) -> Chart | None:
    if not curves:
        return None
    losses = [loss for _, points in curves for _, loss in points]
    frame = svg.Frame(
        axes.amount_axis(
            max(at for _, points in curves for at, _ in points), label, lambda value: f"{value:.3g}"
        ),
        axes.range_axis(losses, "loss", lambda value: f"{value:.3g}"),
        has_names=False,
    )
    parts: list[Markup] = []
    legend: list[tuple[str, str]] = []
    others = 0
    for training, points in curves:
        is_recommended = is_answer(training.batch_size, recommendation) and training.outcome is Outcome.OK
        stroke = "line s0 own" if is_recommended else f"line s{1 + others % (STROKES - 1)}"
        others += not is_recommended
        words = _training_text(training)
        parts += _curve(frame, training, points, stroke, words)
        legend.append((stroke, words))
    matched = None if recommendation.check is None else recommendation.check.matched_loss
    if matched is not None and min(losses) <= matched <= max(losses):
        parts.append(svg.level(frame, matched, f"the same loss: {matched:.3g}"))
    ends = "; ".join(
        f"{words}, {points[-1][1]:.3g}" for (_, words), (_, points) in zip(legend, curves, strict=True)
    )
    picture = svg.picture(f"Loss over {label}. Losses at the end: {ends}.", frame, *parts)
    return Chart(title, picture, caption, tuple(legend))


def _curve(
    frame: svg.Frame, training: Training, points: list[tuple[float, float]], stroke: str, words: str
) -> list[Markup]:
    last_at, last_loss = points[-1]
    colour = stroke.split()[1]
    parts = [svg.curve(frame, points, stroke, f"{words}: loss {last_loss:.3g} at the end")]
    parts += [
        svg.dot(frame, at, loss, f"{words}: loss {loss:.3g}", f"point {colour}", _RADIUS)
        for at, loss in points
    ]
    if training.outcome is not Outcome.OK:
        parts.append(svg.cross(frame, last_at, title=words, y=last_loss))
    return parts


def _training_text(training: Training) -> str:
    text = f"{training.batch_size:,}, learning rate ×{training.learning_rate_factor:.3g}"
    return text if training.outcome is Outcome.OK else f"{text}, {training.outcome.replace('_', ' ')}"
