"""Burn-in and noise measurements, inside the worker."""

from __future__ import annotations

import time
from math import isfinite

from autobatch.decision import noise_scale
from autobatch.decision.constants import FEWEST_CHUNKS, MOST_SAMPLES
from autobatch.decision.noise_scale import Chunks
from autobatch.engines import messages
from autobatch.records.errors import AutobatchError
from autobatch.worker.gradients import has_batch_norm, measure_chunks
from autobatch.workload.target import told
from autobatch.workload.trainer import Trainer

# The noise scale rises early in training, so it is measured along a burn-in, never at the first weights.
_MEASURE_AT = (0.25, 0.5, 1.0)
# Later than a tenth of a training, it has risen further than the growth that
# autobatch.decision.noise_scale reckons with.
_BURN_IN_EPOCHS = 2
_CHUNKS = 32
# Fewer samples in a chunk, and BatchNorm's own noise would be read as the gradient's.
_SMALLEST_WITH_BATCH_NORM = 8
# Each keeps a row of numbers: 64 MiB in all.
_MOST_CHUNKS = 1024
# Other samples than those that the burn-in drew first.
_SEED = 1 << 20


def run(trainer: Trainer, command: messages.MeasureNoise) -> messages.Noise:
    """Trains at the given size for the burn-in or two epochs, and measures at 25, 50 and 100% of that."""
    measured: list[Chunks] = []
    steps, spent = 0, 0.0
    if trainer.why_no_check:
        return messages.Noise(measured=(), burn_in_steps=0, error=trainer.why_no_check)
    dataset_size = trainer.dataset_size or MOST_SAMPLES
    most_samples = min(dataset_size, command.most_samples, _MOST_CHUNKS * command.largest_chunk)
    most_steps = max(1, _BURN_IN_EPOCHS * dataset_size // command.batch_size)
    try:
        _warm_up(trainer, command.batch_size)
        deadline = time.perf_counter() + command.seconds
        trainer.scale_learning_rates(command.learning_rate_factor)
        for share in _MEASURE_AT:
            begin = time.perf_counter()
            while steps < share * most_steps and spent < share * command.burn_in_seconds:
                trainer.step(trainer.load(command.batch_size, steps))
                steps += 1
                spent += time.perf_counter() - begin
                begin = time.perf_counter()
            if measured and time.perf_counter() > deadline:
                break
            chunks = _measure(trainer, most_samples, command.largest_chunk, deadline)
            if chunks is not None and not _is_finite(chunks):
                error = "the gradient became infinite or not a number"
                return messages.Noise(measured=tuple(measured), burn_in_steps=steps, error=error)
            measured += [chunks] if chunks is not None else []
    except AutobatchError as error:
        return messages.Noise(measured=tuple(measured), burn_in_steps=steps, error=error.message)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return messages.Noise(measured=tuple(measured), burn_in_steps=steps, error=told(error))
    return messages.Noise(measured=tuple(measured), burn_in_steps=steps)


def _warm_up(trainer: Trainer, batch_size: int) -> None:
    """Compiles what is not compiled yet, as a first part of the burn-in that takes none of its time."""
    if trainer.compiled:
        # After a second size, torch compiles for sizes of any kind.
        for size in {batch_size, max(2, batch_size // 2)}:
            trainer.warm_up(trainer.load(size, 0))


def _measure(trainer: Trainer, most_samples: int, largest_chunk: int, deadline: float) -> Chunks | None:
    """The sums of as many samples as the estimate needs, up to `most_samples`; None if those are too few."""
    least = _SMALLEST_WITH_BATCH_NORM if has_batch_norm(trainer.model) else 1
    found: Chunks | None = None
    samples = noise_scale.samples_wanted(None, most_samples)
    while True:
        chunk = min(max(least, samples // _CHUNKS), largest_chunk)
        if samples // chunk < FEWEST_CHUNKS:
            return found
        found = measure_chunks(trainer, chunk, samples // chunk, _SEED, deadline)
        scale = noise_scale.noise_scale(
            chunk, found.squared_norms, found.inner_products, found.sum_squared_norm
        )
        wanted = noise_scale.samples_wanted(scale, most_samples)
        if wanted <= samples or time.perf_counter() > deadline:
            return found
        samples = wanted


def _is_finite(chunks: Chunks) -> bool:
    return all(map(isfinite, (*chunks.squared_norms, *chunks.inner_products, chunks.sum_squared_norm)))
