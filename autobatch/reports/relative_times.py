"""The time of a training at each size, relative to the recommended size, with its 90% interval."""

from __future__ import annotations

from math import isfinite

from autobatch.records.recommendation import Recommendation

# Beyond any real ratio: a damaged or hostile file may hold any.
SHORTEST, LONGEST = 1e-6, 1e6
# Sizes that take longer than this times the least time would press the others of a chart flat.
_MOST_DRAWN = 4.0


def relative_times(recommendation: Recommendation) -> dict[int, float]:
    """Return the time of a training at each size over that at the recommended size.

    With a decision it is that of the same epochs, else the expected time to the same loss. Empty where
    neither is known.
    """
    if recommendation.stopped:
        return {}
    if recommendation.decision is None:
        return {
            candidate.batch_size: candidate.relative_time
            for candidate in recommendation.candidates
            if candidate.accumulation_steps == 1
        }
    speedups = {row.batch_size: row.speedup for row in recommendation.same_epochs}
    answer = speedups.get(recommendation.batch_size)
    if not answer:
        return {}
    return {size: answer / speedup for size, speedup in speedups.items() if speedup}


def times_to_draw(recommendation: Recommendation) -> dict[int, float]:
    """Return the relative times for a chart by ascending size, without slow sizes that nobody would use."""
    times = relative_times(recommendation)
    kept = (recommendation.batch_size, recommendation.workload.batch_size)
    limit = _MOST_DRAWN * min((time for time in times.values() if time > SHORTEST), default=1.0)
    return {
        size: time
        for size, time in sorted(times.items())
        if SHORTEST < time < LONGEST and (time < limit or size in kept)
    }


def relative_intervals(recommendation: Recommendation) -> dict[int, tuple[float, float]]:
    """Return the 90% interval of each relative time; empty where it is unknown."""
    times = relative_times(recommendation)
    if recommendation.decision is None:
        given = _intervals_by_critical_batch(recommendation, times)
    else:
        rows = {row.batch_size: row for row in recommendation.same_epochs}
        answer = rows[recommendation.batch_size].speedup
        given = {
            size: (answer / rows[size].interval[1], answer / rows[size].interval[0])
            for size in times
            if rows[size].interval[0] > 0 and rows[size].interval[1] > 0
        }
    return {size: (low, high) for size, (low, high) in given.items() if SHORTEST < low <= high < LONGEST}


def _intervals_by_critical_batch(
    recommendation: Recommendation, times: dict[int, float]
) -> dict[int, tuple[float, float]]:
    """Return the relative times at the ends of the interval of the critical batch size B_crit.

    Time to a loss is proportional to 1 + B_crit / B (McCandlish et al. 2018), per rank.
    """
    check, ranks = recommendation.check, recommendation.world_size
    if check is None or check.critical_batch_size is None or check.interval is None:
        return {}
    low, high = check.interval
    if high is None or not (0 < low <= check.critical_batch_size <= high and isfinite(high)):
        return {}
    answer = recommendation.batch_size

    def steps_ratio(size: int, critical: float) -> float:
        return (1 + critical / ranks / size) / (1 + critical / ranks / answer)

    intervals = {}
    for size, time in times.items():
        ends = [
            time * steps_ratio(size, end) / steps_ratio(size, check.critical_batch_size)
            for end in (low, high)
        ]
        intervals[size] = (min(*ends, time), max(*ends, time))
    return intervals
