"""The parent's side of the check: what to measure in the time that is left, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

from autobatch import noise, search
from autobatch.errors import AutobatchError
from autobatch.probe import wire
from autobatch.probe.runner import Engine
from autobatch.records import Check, Curve, Limits, Trial

NOISE_ONLY = "from the gradient's noise scale alone, without trial trainings"
_TOO_LITTLE = "not run: too little of the budget was left"
_DEFAULT_BATCH_SIZE = 32
# Of the budget, for the probe; the rest is the check's.
PROBE_SHARE = 0.75
# Shares of the time that is left: for training, and for the samples of three measurements, which double.
_BURN_IN_SHARE = 0.4
_SAMPLES_SHARE = 0.1
_MOST_BURN_IN_SECONDS = 10.0
_FEWEST_SAMPLES = 64
# Models with BatchNorm need chunks of that many samples.
_LEAST_CHUNK = 8


def assess(engine: Engine, curve: Curve, limits: Limits) -> Check:
    """The check of a curve, as far as the rest of the budget goes; its status says how far that was."""
    if curve.workload.synthetic:
        return Check(status="not run: the inputs are random")
    left = limits.budget_seconds - engine.busy_seconds
    passed = [t for t in search.latest(curve.trials).values() if t.ok and t.samples_per_second]
    if not passed:
        return Check(status=_TOO_LITTLE)
    own = _nearest(passed, curve.workload.batch_size or _DEFAULT_BATCH_SIZE)
    samples = int(_SAMPLES_SHARE * left * (own.samples_per_second or 0.0))
    if samples < _FEWEST_SAMPLES:
        return Check(status=_TOO_LITTLE)
    command = wire.MeasureNoise(
        batch_size=own.batch_size,
        seconds=left,
        burn_in_seconds=min(_MOST_BURN_IN_SECONDS, _BURN_IN_SHARE * left),
        most_samples=samples,
        largest_chunk=max(own.batch_size, _nearest(passed, _LEAST_CHUNK).batch_size),
    )
    try:
        return _result(engine.measure_noise(command))
    except AutobatchError as error:
        return Check(status=f"not run: {error.message}")


def _nearest(passed: Sequence[Trial], size: int) -> Trial:
    """The trial of the largest size that passed up to `size`, else the smallest there is."""
    below = [trial for trial in passed if trial.batch_size <= size]
    if below:
        return max(below, key=lambda trial: trial.batch_size)
    return min(passed, key=lambda trial: trial.batch_size)


def _result(found: wire.Noise) -> Check:
    scales = [
        noise.noise_scale(one.chunk_size, one.squared_norms, one.inner_products, one.sum_squared_norm)
        for one in found.measured
    ]
    if not scales:
        return Check(status=f"not run: {found.error or 'the data set is too small'}")
    critical = noise.critical_batch_size(scales)
    if not isfinite(critical.batch_size):
        return Check(status="no answer: the gradient's noise hides its mean")
    low, high = critical.low, critical.high
    return Check(
        status=NOISE_ONLY,
        noise_scale=next(one.batch_size for one in reversed(scales) if one.valid),
        critical_batch_size=critical.batch_size,
        interval=(low, None if high == inf else high),
        log_sd=critical.log_sd,
    )
