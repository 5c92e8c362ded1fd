"""The warnings of an answer, the most useful first: a problem, its consequence, and the action.

The report shows a few of them. The others are details.
"""

from __future__ import annotations

import re

from autobatch.records.formatting import format_rate
from autobatch.records.recommendation import Recommendation
from autobatch.reports.text.lines import clean
from autobatch.reports.text.row_choice import around_answer

SHOWN = 3
# The size that a warning is about, or several of them.
_SIZES = re.compile(r"(?:whether )?batch sizes? (?:below )?([0-9][0-9, ]*)")


def notices(recommendation: Recommendation) -> tuple[list[str], list[str]]:
    """Return (shown, further) warnings. Those about the answer come before those about a measurement.

    Warnings about sizes far from the answer are never among those shown.
    """
    measured = recommendation.measured_warnings
    derived = [text for text in recommendation.warnings if text not in measured]
    texts = dict.fromkeys([*_loading(recommendation), *derived, *recommendation.warnings])
    near = {trial.batch_size for trial in around_answer(recommendation)}
    useful = [text for text in texts if _concerns(text, near)]
    shown = useful[:SHOWN]
    further = [text for text in texts if text not in shown]
    return [_sentence(text) for text in shown], [_sentence(text) for text in further]


def _concerns(text: str, sizes: set[int]) -> bool:
    """True for a warning about some of the sizes, or about no size in particular."""
    match = _SIZES.match(text)
    if match is None:
        return True
    named = {word.strip(", ").replace(",", "") for word in match.group(1).split(", ")}
    return bool(named & {str(size) for size in sizes})


def _loading(recommendation: Recommendation) -> list[str]:
    """Ask for more workers where loading slows the training and a measured number of them ends that."""
    loader = recommendation.loader
    if loader is None or not loader.timings or loader.sufficient_workers is None:
        return []
    current = loader.timings[0]
    enough = next((t for t in loader.timings if t.workers == loader.sufficient_workers), current)
    before, after = loader.pace_seconds(current), loader.pace_seconds(enough)
    if enough is current or not before or not after:
        return []
    rates = f"{format_rate(loader.batch_size / before)} to {format_rate(loader.batch_size / after)} samples/s"
    return [f"loading is the bottleneck: set num_workers={enough.workers} ({rates})"]


def _sentence(text: str) -> str:
    """Return a warning on one line that begins like a sentence, unless it begins with a name."""
    text = clean(text)
    first = text.split(" ", 1)[0].rstrip(":,")
    return text[:1].upper() + text[1:] if first.isascii() and first.isalpha() else text
