"""Gradient noise and short trainings of a script, from its first weights on, for the generalization check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, inf

import msgspec

from autobatch.decision.constants import FEWEST_CHUNKS, SKETCH_WIDTH
from autobatch.engines import messages
from autobatch.scripts.messages import NoiseSums, Trained
from autobatch.scripts.noise import limiting_chunks
from autobatch.scripts.process import ScriptEndedError
from autobatch.scripts.schedule import Schedule
from autobatch.scripts.session import START_SECONDS, Session
from autobatch.scripts.trainings import training_of

_MOST_GRADIENTS, _FEWEST_GRADIENTS = 128, 16
# The noise scale rises early in training, so it is measured along a burn-in.
_MEASURE_AT = (0.25, 0.5, 1.0)
# Of the check's time, for all of its gradients; short trainings need the rest.
_NOISE_SHARE = 0.3
_HELD_OUT = "the training loss of each batch, before the step that it makes"


class Generalization:
    """The measurements of one `session`. `noisy_optimizer`: the one whose gradient noise was the smallest."""

    def __init__(
        self,
        session: Session,
        schedule: Schedule,
        step_seconds: Mapping[int, float],
        snapshot: str,
        *,
        seed: int,
    ) -> None:
        """`step_seconds` by size, as they are measured. `snapshot`: the file for the first weights."""
        self._session = session
        self._schedule = schedule
        self._step_seconds = step_seconds
        self._snapshot = snapshot
        self._has_snapshot = False
        self._seed = seed
        self.noisy_optimizer = ""

    def take_snapshot(self) -> None:
        """Save the weights that noise and trainings start from."""
        self._session.ask("save", self._session.current_size, START_SECONDS, snapshot=self._snapshot)
        self._has_snapshot = True

    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise:
        """Gradients at frozen weights, at three points of a burn-in from the first weights on."""
        size = command.batch_size
        step_seconds = self._step_seconds.get(size, 1.0)
        burn_in = max(4, int(command.burn_in_seconds / step_seconds))
        # Slow steps leave time for one point: the last, which says most.
        few = command.seconds < step_seconds * (burn_in + (FEWEST_CHUNKS + 1) * len(_MEASURE_AT))
        measure_at = _MEASURE_AT[-1:] if few else _MEASURE_AT
        if few and command.seconds < step_seconds * (burn_in + FEWEST_CHUNKS + 1):
            return messages.Noise(
                measured=(), burn_in_steps=0, error="too little of the budget was left for its slow steps"
            )
        seconds = _NOISE_SHARE * command.seconds / len(measure_at)
        wanted = min(command.most_samples // size, int(seconds / step_seconds), _MOST_GRADIENTS)
        count = max(_FEWEST_GRADIENTS, wanted)
        points: list[NoiseSums] = []
        after_steps: list[int] = []
        done, error = 0, ""
        try:
            if self._has_snapshot:
                self._session.ask("restore", size, START_SECONDS, snapshot=self._snapshot)
            for share in measure_at:
                steps = max(1, ceil(share * burn_in) - done)
                rounds = {"rounds": steps, "round_steps": 1, "warm_up": 0}
                trained = self._session.ask("measure", size, command.burn_in_seconds, **rounds)
                done += trained[0]["steps"]
                sums = self._session.ask(
                    "noise",
                    size,
                    seconds,
                    gradients=count,
                    fewest=FEWEST_CHUNKS,
                    width=SKETCH_WIDTH,
                    seed=self._seed,
                )
                measured = msgspec.convert(sums[0], NoiseSums, strict=False)
                if min((len(s.squared_norms) for s in measured.optimizers), default=0) >= FEWEST_CHUNKS:
                    after_steps.append(done)
                    points.append(measured)
        except ScriptEndedError as ended:
            error = ended.detail
        number, chunks = limiting_chunks(points, size * self._session.observed.world_size)
        if chunks:
            self.noisy_optimizer = self._session.observed.optimizers[number]
        return messages.Noise(
            measured=chunks,
            burn_in_steps=done,
            after_steps=tuple(after_steps),
            error=error if error or chunks else "the script gave no gradients",
        )

    def train(self, command: messages.Train, *, is_summed: bool) -> messages.Trained:
        size = command.batch_size
        factor = command.learning_rate_factor
        if (reason := self._why_no_training(size, command.seconds)) is not None:
            return messages.Trained(training=None, held_out=reason)
        steps = max(1, int(command.seconds / self._step_seconds.get(size, inf)))
        summed = size / self._session.current_size if is_summed else 1.0
        try:
            results = self._session.ask(
                "train",
                size,
                min(2 * command.seconds, self._schedule.left_seconds),
                steps=steps,
                learning_rate_factor=factor,
                snapshot=self._snapshot,
            )
        except ScriptEndedError as ended:
            training = training_of(size, factor, [], [])
            return messages.Trained(
                training=replace(training, outcome=ended.outcome, detail=ended.detail), held_out=_HELD_OUT
            )
        trained = msgspec.convert(results[0], Trained, strict=False)
        losses = [None if loss is None else loss / summed for loss in trained.losses]
        return messages.Trained(
            training=training_of(size, factor, losses, trained.seconds), held_out=_HELD_OUT
        )

    def _why_no_training(self, size: int, seconds: float) -> str | None:
        """The reason why a short training can't be had, or can't be compared with another; None for none."""
        if not self._has_snapshot:
            return "the script's weights can't be put back"
        if self._session.observed.losses_apart > 1:
            return "the optimizers train against each other, so their losses can't be compared"
        start = self._session.start_seconds if self._session.starts_for(size) else 0.0
        if self._schedule.elapsed_seconds + start + seconds > self._schedule.end_seconds:
            return "too little of the budget was left for another start of the command"
        return None
