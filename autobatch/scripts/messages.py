"""Facts that a watched training sends, as typed records."""

from __future__ import annotations

import msgspec

from autobatch.scripts.losses import first_loss


class Sighting(msgspec.Struct, frozen=True):
    """A number that a script was given. `flags`: its spellings on a command line, the longest first."""

    source: str
    name: str
    flags: list[str]
    value: float


class LoaderPlace(msgspec.Struct, frozen=True):
    """The DataLoader that training draws from. `movable`: its size can be changed while it iterates."""

    file: str
    line: int
    workers: int
    dataset: str
    dataset_size: int | None
    movable: bool


class DeviceFacts(msgspec.Struct, frozen=True):
    kind: str
    index: int
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    threads: int | None = None


class Observation(msgspec.Struct, frozen=True):
    """The first steps of a script. `sizes`: samples of each batch; `fetches` and `backwards`: of each step.

    `shape` is the model's input, `ended`: the script ended after these `steps`. `losses_apart`: the
    optimizers that have a loss of their own, above 1 where they train against each other.
    `other_fetches`: the batches of a step from other loaders than `loader`. Times and bytes are those
    after the first step.
    """

    ended: bool
    steps: int
    step_seconds: list[float]
    sizes: list[int | None]
    shape: list[int]
    fetches: int
    backwards: int
    losses_apart: int
    losses: list[float | None]
    constant_input: bool
    optimizer: str
    optimizers: list[str]
    learning_rate: float | None
    decays: dict[str, float]
    model: str
    parameters: int
    loader: LoaderPlace | None
    step_file: str
    step_line: int
    sightings: list[Sighting]
    rank: int
    world_size: int
    device: DeviceFacts
    torch: str
    sources: list[str]
    packages: list[str]
    other_fetches: int = 0
    load_seconds: float | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None

    @property
    def batch_size(self) -> int | None:
        """Samples of a batch: the size of most steps. Of two the larger: an epoch's last batch may be cut."""
        sizes = [size for size in self.sizes if size]
        return max(set(sizes), key=lambda size: (sizes.count(size), size)) if sizes else None

    @property
    def micro_batches(self) -> int:
        """Batches of an optimizer step: above 1 where the script accumulates gradients."""
        return max(
            1, self.fetches if self.loader is not None else self.backwards // max(1, self.losses_apart)
        )

    @property
    def measured(self) -> Measured:
        """The first steps as a measurement of their size: slow ones are too dear to be made again."""
        losses = self.losses
        return Measured(
            ended=self.ended,
            observed_size=self.batch_size,
            round_seconds=self.step_seconds,
            steps=len(self.step_seconds),
            load_seconds=self.load_seconds,
            peak_bytes=self.peak_bytes,
            reserved_bytes=self.reserved_bytes,
            first_loss=first_loss(losses),
            last_loss=first_loss(losses[::-1]),
        )


class Measured(msgspec.Struct, frozen=True):
    """Rounds of steps at one size. Times in seconds of a step, memory in bytes.

    `first_loss` and `last_loss`: means over a few steps at the beginning and at the end.
    """

    ended: bool
    observed_size: int | None = None
    round_seconds: list[float] = []
    steps: int = 0
    load_seconds: float | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    immovable: bool = False


class GradientSums(msgspec.Struct, frozen=True):
    """Sums over the gradients of one optimizer: see autobatch.decision.noise_scale."""

    squared_norms: list[float]
    inner_products: list[float]
    sum_squared_norm: float


class NoiseSums(msgspec.Struct, frozen=True):
    """The sums of each optimizer that had gradients, the primary one first."""

    ended: bool
    optimizers: list[GradientSums] = []


class Trained(msgspec.Struct, frozen=True):
    """Losses and seconds of a short training, step by step; null for a loss that is no number."""

    ended: bool
    losses: list[float | None] = []
    seconds: list[float] = []
    immovable: bool = False
