"""A short training of the check, inside the worker: steps, and the loss on held-out samples."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

import torch

from autobatch.decision.constants import LAST_PART
from autobatch.devices.oom import Cause, classify
from autobatch.engines import messages
from autobatch.records.check import Evaluation, Training
from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Outcome
from autobatch.workload.holdout import Split
from autobatch.workload.loss import NoLossError
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error

# Evaluations come after 0, 4, 5, 6, 8, 10, 12 ... steps, in every training, so that they can be paired.
_FIRST_EVALUATION = 4
_GROWTH = 1.2
# The last part of a whole training has so many evaluations at least: it is compared by their mean.
_EVALUATIONS_IN_LAST_PART = 5


def steps_to_next_evaluation(steps: int, most_steps: float) -> int:
    """The steps of the evaluation after the one after `steps`, in a training of at most `most_steps`."""
    following = max(_FIRST_EVALUATION, steps + 1, math.ceil(_GROWTH * steps))
    if following <= (1 - LAST_PART) * most_steps or most_steps == math.inf:
        return following
    stride = int(LAST_PART * most_steps / _EVALUATIONS_IN_LAST_PART)
    return min(following, max(_FIRST_EVALUATION, steps + max(1, stride)))


class DivergedError(Exception):
    """The loss became infinite or not a number."""


def run(trainer: Trainer, start: Snapshot, command: messages.Train) -> messages.Trained:
    """A training from the start for the given time. A failure is its outcome."""
    if trainer.why_no_check:
        return messages.Trained(training=None, held_out=trainer.why_no_check)
    holdout = trainer.hold_out(command.samples, command.seed)
    if holdout is None or len(holdout.train) < command.batch_size * trainer.ranks.count:
        return messages.Trained(training=None, held_out="the data set is too small to hold samples out")
    if len(holdout.held_out) < command.smallest_part:
        return messages.Trained(training=None, held_out="fewer samples are held out than a batch has to have")
    attempt = _Run(trainer, holdout, command)
    training = attempt.training(start)
    held_out = ", ".join(filter(None, (holdout.description, trainer.evaluation_note)))
    return messages.Trained(training=training, held_out=held_out, by_peer=attempt.by_peer)


class _Run:
    """Counts as it goes, so that a failure loses nothing. `by_peer`: the failure came from another rank.

    Each of several ranks takes its part of every global batch, in an order that depends on the seed alone.
    """

    def __init__(self, trainer: Trainer, holdout: Split, command: messages.Train) -> None:
        self._trainer = trainer
        self._command = command
        self._from_validation = holdout.from_validation
        self._first = list(holdout.train[: command.batch_size])
        self._rows = _rows(holdout.train, command.seed)
        self._parts = _parts(holdout.held_out, command.part_size, command.multiple_of)
        most = command.most_samples
        self._most_steps = math.inf if most is None else max(1, round(most / command.batch_size))
        self.by_peer = False
        self._steps = 0
        self._seconds = 0.0
        self._evaluations: list[Evaluation] = []

    def training(self, start: Snapshot) -> Training:
        try:
            self._warm_up()
            start.restore()
            self._trainer.scale_learning_rates(self._command.learning_rate_factor)
            self._train(time.perf_counter() + self._command.seconds)
        except DivergedError as error:
            return self._ended(Outcome.DIVERGED, str(error))
        except AutobatchError as error:
            return self._ended(Outcome.FAILED, error.message)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            cause = classify(error)
            self.by_peer = cause is Cause.PEER
            out_of_memory = cause is Cause.OUT_OF_MEMORY
            return self._ended(
                Outcome.OUT_OF_MEMORY if out_of_memory else Outcome.FAILED, describe_error(error)
            )
        return self._ended(Outcome.OK)

    def _warm_up(self) -> None:
        """Compiles before the training, so that it takes none of its time. The start is restored after."""
        trainer = self._trainer
        if trainer.compiled:
            trainer.warm_up(trainer.load_rows(self._first))
            with trainer.compiling():
                trainer.held_out_loss(self._parts[0], from_validation=self._from_validation)

    def _train(self, deadline: float) -> None:
        self._evaluate()
        next_evaluation = steps_to_next_evaluation(0, self._most_steps)
        while True:
            finite = self._step()
            is_over = time.perf_counter() > deadline or self._steps >= self._most_steps
            # A rank that went on after another had stopped would wait for it.
            ends, diverged = self._trainer.highest(is_over, not finite)
            if diverged:
                raise DivergedError("the loss became infinite or not a number")
            if ends or self._steps >= next_evaluation:
                self._evaluate()
                next_evaluation = steps_to_next_evaluation(self._steps, self._most_steps)
            if ends:
                return

    def _step(self) -> bool:
        """True where the loss of the step was a finite number."""
        begin = time.perf_counter()
        loss = self._loss_of_step()
        # Reading the loss waits for the device.
        finite = loss is None or math.isfinite(float(loss))
        self._seconds += time.perf_counter() - begin
        self._steps += 1
        return finite

    def _loss_of_step(self) -> torch.Tensor | None:
        # As in Lightning, a batch without a loss changes nothing.
        with suppress(NoLossError):
            return self._trainer.step(self._trainer.load_rows(self._next_rows()))
        return None

    def _next_rows(self) -> list[int]:
        """This rank's part of the next global batch."""
        ranks, size = self._trainer.ranks, self._command.batch_size
        return list(islice(self._rows, ranks.count * size))[ranks.rank * size :][:size]

    def _evaluate(self) -> None:
        losses = tuple(
            self._trainer.held_out_loss(part, from_validation=self._from_validation) for part in self._parts
        )
        if not all(map(math.isfinite, losses)):
            raise DivergedError("the loss on the samples held out became infinite or not a number")
        self._evaluations.append(Evaluation(steps=self._steps, seconds=self._seconds, losses=losses))

    def _ended(self, outcome: Outcome, detail: str = "") -> Training:
        return Training(
            batch_size=self._command.batch_size,
            learning_rate_factor=self._command.learning_rate_factor,
            outcome=outcome,
            steps=self._steps,
            seconds=self._seconds,
            evaluations=tuple(self._evaluations),
            detail=detail,
        )


def _rows(train: Sequence[int], seed: int) -> Iterator[int]:
    """Indices of one shuffled epoch after the other, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    while True:
        for place in torch.randperm(len(train), generator=generator).tolist():
            yield train[place]


def _parts(held_out: Sequence[int], size: int, multiple_of: int) -> list[Sequence[int]]:
    """Parts of equal size, a multiple of `multiple_of`. A shorter rest is left out."""
    size = min(size, len(held_out) // multiple_of * multiple_of)
    return [held_out[start : start + size] for start in range(0, len(held_out) - size + 1, size)]
