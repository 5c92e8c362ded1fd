"""The protocol of every engine, and the facts of an opened session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autobatch.engines import messages, trace_messages
from autobatch.records.device import Device
from autobatch.records.workload import SampleSizes, Workload


@dataclass(frozen=True, slots=True)
class Opened:
    """The facts of a session: the device, the workload, the version of torch, and the number of ranks.

    `batch_size_source`: where the current batch size is from; empty where the caller gave it.
    """

    device: Device
    workload: Workload
    torch: str
    world_size: int = 1
    batch_size_source: str = ""


class Engine(Protocol):
    """Where trials run: a worker process here, ranks that train together, nodes of a cluster.

    A failure of the workload, or the death of its process, is an outcome in the reply. An error that the user
    has to repair is raised as AutobatchError.

    `busy_seconds`: wall time since the engine was made, the start of sessions included and `compile_seconds`
    excepted. `start_seconds`: those that the last session took to start.
    `sizes`: the sizes of the samples, as far as they were read. `trainings_at_once`: the number of short
    trainings that `train_all` runs at the same time. `ranks`: the processes that step together, 1 for a
    single process; `local_ranks`: those of this machine, which share its processors.
    """

    compile_seconds: float
    trainings_at_once: int

    @property
    def busy_seconds(self) -> float: ...
    @property
    def start_seconds(self) -> float: ...
    @property
    def ranks(self) -> int: ...
    @property
    def local_ranks(self) -> int: ...
    @property
    def sizes(self) -> SampleSizes | None: ...
    @property
    def fresh(self) -> bool:
        """True while no trial has run in the current session."""
        ...

    def open(self) -> Opened:
        """Starts a session unless there is one."""
        ...

    def take_fingerprint(self) -> messages.Fingerprint:
        """The digests of what the current session trains."""
        ...

    def try_out(
        self, batch_size: int, seconds: float, steps: int, *, sizes: tuple[int, ...] = ()
    ) -> messages.Tried:
        """Full training steps at one size, or at `sizes`, one for each rank."""
        ...

    def time_round(
        self, batch_size: int, seconds: float, *, alone: bool = False, sizes: tuple[int, ...] = ()
    ) -> messages.Timed | messages.Tried:
        """One timing round of a size that passed; `alone` without the communication of ranks."""
        ...

    def time_each(self, batch_size: int, seconds: float) -> list[float]:
        """The step seconds of each rank without communication. Raises AutobatchError where a rank fails."""
        ...

    def trace_memory(self, *, without_data: bool = False) -> trace_messages.Traced: ...
    def measure_loss_kind(self, command: messages.MeasureLossKind) -> messages.LossForm: ...
    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise: ...
    def train_all(self, commands: Sequence[messages.Train]) -> Sequence[messages.Trained]: ...
    def time_loader(self, command: messages.TimeLoader) -> messages.Loaded: ...
    def renew(self, *, worker: bool = False) -> None:
        """Lets the next trial run in a fresh session, or in a `worker` started anew."""
        ...

    def close(self) -> None:
        """Ends all processes of the engine."""
        ...
