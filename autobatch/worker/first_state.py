"""The state of a training before its first step, to which every trial of a size returns."""

from __future__ import annotations

import contextlib

from autobatch.records.errors import TargetError
from autobatch.workload.model_size import model_bytes
from autobatch.workload.plain_state import PlainState
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error

# Writing and reading the weights of a larger model would take longer than its trials.
_MOST_BYTES = 1 << 30


class FirstState:
    """The first state of a session's training, as far as it can be kept.

    The weights of large models stay as trials leave them. Attributes of modules, and schedules, are put back
    in any case. State that the user's code keeps elsewhere is not.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._snapshot: Snapshot | None = None
        self._plain: PlainState | None = None
        self.is_kept = False

    @property
    def is_shared(self) -> bool:
        """True where other ranks train too, so that no rank may take a step of its own."""
        return self._trainer.ranks.count > 1

    @property
    def is_whole(self) -> bool:
        """True where weights and optimizers were kept before the first trial."""
        return self.is_kept and self._snapshot is not None

    def snapshot(self) -> Snapshot:
        """The whole state, kept before the first training. Raises TargetError if it can't be kept."""
        if self._snapshot is None:
            try:
                self._trainer.materialize()
                self._snapshot = Snapshot(self._trainer)
            except Exception as error:
                raise TargetError(
                    f"the model can't be kept to start again from: {describe_error(error)}",
                    code="no_snapshot",
                ) from None
        return self._snapshot

    def keep(self) -> None:
        """Keeps the state before the first trial."""
        if self.is_kept:
            return
        self.is_kept = True
        if model_bytes(self._trainer.model) <= _MOST_BYTES:
            # A model that can't be kept is tried all the same; its failures are repeated in a fresh process.
            with contextlib.suppress(TargetError):
                self.snapshot()
        self._plain = PlainState(self._trainer)

    def carried(self) -> tuple[str, ...]:
        """The state of the model that may be of the last batch."""
        return () if self._plain is None else self._plain.carried()

    def restore(self) -> None:
        """Puts the state back before a trial of a size."""
        if self._snapshot is not None:
            self._snapshot.restore()
        else:
            self.restore_plain()

    def drop_tensors(self) -> None:
        """Forgets a hidden state that is of the last batch, where a batch of another size follows."""
        if self._plain is not None:
            self._plain.drop_tensors()

    def restore_plain(self) -> None:
        """Puts attributes and schedules back before a timing round: weights don't change its time."""
        if self._plain is not None:
            self._plain.restore()
