"""The training: model, data, loss, optimizer and the current settings."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.limits import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """The share of its past that an optimizer keeps at each step: `momentum`, or Adam's `beta2`; 0 to 1."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """A part of a training that is counted in steps, such as `warmup_steps`."""

    name: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceLengths:
    """Tokens in a sample, over the samples that were scanned."""

    mean: float
    median: float
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSizes:
    """Tensor elements in a sample, over the samples that were `scanned`.

    `tokens` is there where the input of each sample is a sequence of tokens.
    """

    scanned: int
    smallest: int
    median: float
    largest: int
    tokens: SequenceLengths | None = None

    @property
    def vary(self) -> bool:
        """True where the samples are not of one size, so that memory was measured on the largest."""
        return self.largest > self.smallest


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The training to tune. `inferred` lists the settings that autobatch filled in.

    `synthetic` is True where the samples are random numbers of a given shape: then memory and speed
    are measured, and learning is not. `batch_size` is the current number of samples of an optimizer step on
    one device, made up of `accumulation_steps` batches. `epochs` is the declared number, `schedule` the parts
    that are counted in steps; `counted_in_steps` is True where the epochs follow from these.
    `batch_statistics` names the layers that normalize over the batch. The user's code multiplies its learning
    rate by the batch size to the power of `learning_rate_power`. `learning_rate` is None where parameter
    groups differ in it. `sizes` is None where no sample was read, `workers` (of the DataLoader) where none
    was given: then torch's default of 0 holds. `drop_last`: a last batch that is not full is left out.
    `precision` is None for a `step` that the user wrote: it sets the precision. `framework`: `keras`,
    `lightning` or `transformers`, where the model is written for it; else empty.
    """

    target: str
    model: str
    parameters: int
    loss: str
    optimizer: str
    learning_rate: float | None = None
    learning_rate_power: float = 0.0
    decays: tuple[Decay, ...] = ()
    dataset: str = ""
    dataset_size: int | None = None
    batch_size: int | None = None
    accumulation_steps: int = 1
    epochs: float | None = None
    counted_in_steps: bool = False
    schedule: tuple[StepCount, ...] = ()
    batch_statistics: str = ""
    synthetic: bool = False
    sizes: SampleSizes | None = None
    workers: int | None = None
    drop_last: bool = False
    precision: Precision | None = Precision.FP32
    framework: str = ""
    inferred: tuple[str, ...] = ()

    @property
    def micro_batch_size(self) -> int | None:
        """The samples that pass through the network at once today; None where the current size is unknown."""
        return None if self.batch_size is None else self.batch_size // self.accumulation_steps

    def last_batch(self, batch_size: int, ranks: int) -> int:
        """Samples in a rank's last batch of an epoch; 0 where it is full, left out or unknown.

        Ranks get equal shares, as from torch's DistributedSampler.
        """
        if self.dataset_size is None or self.drop_last:
            return 0
        return -(-self.dataset_size // ranks) % batch_size
