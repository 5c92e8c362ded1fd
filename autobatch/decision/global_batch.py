"""Pure: the same samples per optimizer step, divided anew into batches whose gradients are accumulated.

The global batch size, its learning rate and the number of steps stay, so only the time changes. Speedups are
those of measured steps. Each of these has an optimizer step, so with many accumulation steps a smaller batch
is a little faster than it seems.
"""

from __future__ import annotations

from autobatch.decision.confidence import decide, measured_speedups
from autobatch.decision.judgement import Judgement
from autobatch.decision.same_epochs import HarmEstimate
from autobatch.decision.trial_set import TrialSet


def divide(permitted: TrialSet, target: int, current_size: int | None, *, least: int = 1) -> Judgement | None:
    """The divisors of `target` beside the batch size that divides it today, and the decision.

    `target`: samples of one rank's optimizer step. `least`: no smaller divisor may be chosen. None where the
    current size was not timed, or is no divisor.
    """
    divisors = permitted.only(
        {size for size in permitted.latest if target % size == 0 and (size >= least or size == current_size)}
    )
    law = divisors.step_time
    reference = next((trial for trial in divisors.timed if trial.batch_size == current_size), None)
    if law is None or reference is None:
        return None
    speedups = measured_speedups(reference, divisors.timed, law)
    harms = {size: HarmEstimate(log_harm=0.0, sd=0.0) for size in speedups}
    size = reference.batch_size
    return Judgement(reference=size, speedups=speedups, harms=harms, decision=decide(size, speedups, harms))
