"""Burn-in and noise measurements, inside the worker."""

from __future__ import annotations

import time
from contextlib import suppress
from math import isfinite

from autobatch.decision import noise_scale
from autobatch.decision.constants import FEWEST_CHUNKS, MOST_SAMPLES
from autobatch.decision.noise_scale import Chunks
from autobatch.engines import messages
from autobatch.records.errors import AutobatchError, TargetError
from autobatch.worker.gradients import has_batch_norm, measure_chunks
from autobatch.workload.loss import NoLossError
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error

# The noise scale rises early in training, so it is measured along a burn-in, never at the first weights.
_MEASURE_AT = (0.25, 0.5, 1.0)
# After a tenth of a training, it has risen further than autobatch.decision.noise_scale assumes.
_BURN_IN_EPOCHS = 2
_CHUNKS = 32
# Fewer samples in a chunk, and BatchNorm's own noise would be read as the gradient's.
_SMALLEST_WITH_BATCH_NORM = 8
# Each chunk keeps a row of numbers: 64 MiB in all.
_MOST_CHUNKS = 1024
# The distance to the seeds of the burn-in, so that other samples are drawn.
_SEED = 1 << 20


def run(trainer: Trainer, command: messages.MeasureNoise) -> messages.Noise:
    """Trains at one size, and measures after 25, 50 and 100% of the burn-in.

    The burn-in ends after two epochs at the latest. A failure ends it too, and is the reply's `error`.
    """
    if trainer.why_no_check:
        return messages.Noise(measured=(), burn_in_steps=0, error=trainer.why_no_check)
    burn_in = _BurnIn(trainer, command)
    error = ""
    try:
        burn_in.run()
    except AutobatchError as failure:
        error = failure.message
    except (Exception, SystemExit, KeyboardInterrupt) as failure:
        error = describe_error(failure)
    return messages.Noise(
        measured=tuple(burn_in.measured),
        burn_in_steps=burn_in.steps,
        after_steps=tuple(burn_in.after_steps),
        error=error,
    )


class _BurnIn:
    """Keeps what it has measured as it goes, so that a failure loses nothing."""

    def __init__(self, trainer: Trainer, command: messages.MeasureNoise) -> None:
        self.measured: list[Chunks] = []
        self.after_steps: list[int] = []
        self.steps = 0
        self._seconds = 0.0
        self._trainer = trainer
        self._command = command
        dataset_size = trainer.dataset_size or MOST_SAMPLES
        self._most_samples = min(dataset_size, command.most_samples, _MOST_CHUNKS * command.largest_chunk)
        self._most_steps = max(1, _BURN_IN_EPOCHS * dataset_size // command.batch_size)

    def run(self) -> None:
        """Raises TargetError for a gradient that is not finite, and the errors of the user's code."""
        trainer, command = self._trainer, self._command
        _warm_up(trainer, command)
        deadline = time.perf_counter() + command.seconds
        trainer.scale_learning_rates(command.learning_rate_factor)
        for share in _MEASURE_AT:
            self._train(share)
            if self.measured and time.perf_counter() > deadline:
                break
            chunks = _measure(trainer, command, self._most_samples, deadline)
            if chunks is None:
                continue
            if not _is_finite(chunks):
                raise TargetError("the gradient became infinite or not a number", code="gradient_not_finite")
            self.measured.append(chunks)
            self.after_steps.append(self.steps)

    def _train(self, share: float) -> None:
        """Trains up to a share of the burn-in."""
        trainer, command = self._trainer, self._command
        begin = time.perf_counter()
        while self.steps < share * self._most_steps and self._seconds < share * command.burn_in_seconds:
            # As in Lightning, a batch without a loss changes nothing.
            with suppress(NoLossError):
                trainer.step(trainer.load(command.batch_size, self.steps))
            self.steps += 1
            self._seconds += time.perf_counter() - begin
            begin = time.perf_counter()


def _warm_up(trainer: Trainer, command: messages.MeasureNoise) -> None:
    """Compiles the model before the burn-in, so that compiling takes none of its time."""
    if trainer.compiled:
        # After a second size, torch compiles for sizes of any kind.
        for size in {command.batch_size, _chunk_size(max(2, command.batch_size // 2), command)}:
            trainer.warm_up(trainer.load(size, 0))


def _measure(
    trainer: Trainer, command: messages.MeasureNoise, most_samples: int, deadline: float
) -> Chunks | None:
    """The sums over the samples that the estimate needs, up to `most_samples`; None if these are too few."""
    least = _SMALLEST_WITH_BATCH_NORM if has_batch_norm(trainer.model) else 1
    chunks: Chunks | None = None
    samples = noise_scale.samples_wanted(None, most_samples)
    while True:
        chunk = _chunk_size(max(least, samples // _CHUNKS), command)
        if samples // chunk < FEWEST_CHUNKS:
            return chunks
        chunks = measure_chunks(trainer, chunk, samples // chunk, _SEED, deadline)
        scale = noise_scale.noise_scale(
            chunk, chunks.squared_norms, chunks.inner_products, chunks.sum_squared_norm
        )
        wanted = noise_scale.samples_wanted(scale, most_samples)
        if wanted <= samples or time.perf_counter() > deadline:
            return chunks
        samples = wanted


def _chunk_size(wanted: int, command: messages.MeasureNoise) -> int:
    """The multiple nearest to `wanted` from above, within the sizes that the command allows."""
    multiple = -(-wanted // command.multiple_of) * command.multiple_of
    return min(max(multiple, command.smallest_chunk), command.largest_chunk)


def _is_finite(chunks: Chunks) -> bool:
    return all(map(isfinite, (*chunks.squared_norms, *chunks.inner_products, chunks.sum_squared_norm)))
