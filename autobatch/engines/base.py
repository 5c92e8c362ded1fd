"""The protocol that every engine speaks, and the facts of an opened session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autobatch.engines import messages
from autobatch.records.device import Device
from autobatch.records.workload import SampleSizes, Workload


@dataclass(frozen=True, slots=True)
class Opened:
    """What a session found: the device, the workload, the torch that it runs on, and how many ranks step."""

    device: Device
    workload: Workload
    torch: str
    world_size: int = 1


class Engine(Protocol):
    """Where trials run: a worker process, or a simulated device in the tests.

    `busy_seconds` is the time spent in measurements, the start of sessions and `compile_seconds` excepted.
    `sizes` is what is known of the samples by now. `trainings_at_once`: how many short trainings `train_all`
    runs at the same time.
    """

    busy_seconds: float
    compile_seconds: float
    trainings_at_once: int

    @property
    def sizes(self) -> SampleSizes | None: ...
    def open(self) -> Opened: ...
    def try_out(self, batch_size: int, seconds: float, steps: int) -> messages.Tried: ...
    def time_round(self, batch_size: int, seconds: float) -> messages.Timed | messages.Tried: ...
    def trace_memory(self, *, without_data: bool = False) -> messages.Traced: ...
    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise: ...
    def train_all(self, commands: Sequence[messages.Train]) -> Sequence[messages.Trained]: ...
    def time_loader(self, command: messages.TimeLoader) -> messages.Loaded: ...
    @property
    def fresh(self) -> bool: ...
    def prepare(self) -> None: ...
    def renew(self, *, worker: bool = False) -> None: ...
    def close(self) -> None: ...
