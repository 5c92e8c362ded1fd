"""The messages between parent and worker: one JSON object a line, on private descriptors.

JSON, not pickle: a worker runs the user's code, and no message of it can run code in the parent.
"""

from __future__ import annotations

from typing import BinaryIO

import msgspec

from autobatch.decision.noise_scale import Chunks
from autobatch.devices.oom import Cause
from autobatch.engines.trace_messages import Storages, Traced, TraceMemory, TraceStorages
from autobatch.records.cached import FilesRead
from autobatch.records.check import LossKind, Training
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError, DeviceError, SavedResultError, TargetError, UsageError
from autobatch.records.limits import Precision
from autobatch.records.trial import Outcome
from autobatch.records.workload import SampleSizes, Workload
from autobatch.workload.sample_size import Scan

# Lazy optimizer state shows in the second step, memory that the allocator keeps in the third.
FULL_STEPS = 3
# Between the second, third and fourth step memory that grows from step to step is told from what settles.
CONFIRM_STEPS = 4
_KINDS = {
    kind.__name__: kind for kind in (AutobatchError, UsageError, TargetError, DeviceError, SavedResultError)
}


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """The source of the workload: a target to import, or a file of pickled objects.

    `arguments` are those of the target, in its `sys.argv`. `frameworks`: imports of it that take seconds.
    `precision` and `optimizer` (a name of optimizers.NAMED) are None where those of the target are meant.
    `checkpoint`: a file with the weights to start from, and `checkpoint_state` its size and times.
    """

    target: str = ""
    arguments: tuple[str, ...] = ()
    payload: str = ""
    sys_path: tuple[str, ...] = ()
    frameworks: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None
    epochs: float | None = None
    precision: Precision | None = None
    optimizer: str | None = None
    checkpoint: str = ""
    checkpoint_state: str = ""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks that a session trains with: they meet at a store of torch's, under the session's `prefix`.

    `local_rank` of `local_ranks`: among those of the same machine.
    """

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    host: str
    port: int
    prefix: str
    timeout_seconds: float


class Start(_Message, frozen=True):
    """Begin a session: import, load, build, limit. Answered by Opened or Refused.

    `group` is None for a session that trains alone. `scan`: the sizes of samples that an earlier session has
    read, so that they are read only once.
    `frameworks`: imports that take seconds, made once for all sessions.
    `accumulates`: gradients of several batches may add up to a step. `watches_files`: the fingerprint of
    this session lists the files that it has read.
    """

    recipe: Recipe
    device: str | None
    memory_bytes: int | None
    memory_fraction: float
    seed: int
    scan: Scan | None = None
    frameworks: tuple[str, ...] = ()
    group: Group | None = None
    accumulates: bool = False
    watches_files: bool = False


class TakeFingerprint(_Message, frozen=True):
    """Take digests of the session's workload. Answered by Fingerprint."""


class Fingerprint(_Message, frozen=True):
    """A digest for each part of the workload; without `parts`, `detail` says why there are none.

    `files`: those that a session read which `watches_files`.
    """

    parts: dict[str, str]
    detail: str = ""
    files: FilesRead | None = None


class TryOut(_Message, frozen=True):
    """Run `steps` full training steps and an evaluation pass at one size. Answered by Tried.

    `sizes`: one for each rank, where they are not the same.
    """

    batch_size: int
    seconds: float
    steps: int
    sizes: tuple[int, ...] = ()


class TimeRound(_Message, frozen=True):
    """Time a short round of steps at a size that passed. Answered by Timed, or by Tried on failure.

    `alone`: without the communication of ranks. `sizes`: one for each rank, where they are not the same.
    """

    batch_size: int
    seconds: float
    alone: bool = False
    sizes: tuple[int, ...] = ()


class MeasureLossKind(_Message, frozen=True):
    """Compare losses and gradients of `half_size` samples with those of twice as many. Answered by LossForm.

    Twice as many samples are `most_samples` at most; no comparison begins after `seconds`.
    """

    half_size: int
    most_samples: int
    seconds: float
    seed: int


class LossForm(_Message, frozen=True):
    """How the loss follows from the samples of a batch; `detail` says why it is unknown."""

    kind: LossKind
    detail: str = ""


class MeasureNoise(_Message, frozen=True):
    """Train for a while at `batch_size`, and measure the gradient's noise. Answered by Noise.

    All learning rates are multiplied by `learning_rate_factor`. `most_samples` of each measurement, in
    chunks of at least `smallest_chunk` and at most `largest_chunk`, multiples of `multiple_of`; none begins
    after `seconds`.
    """

    batch_size: int
    learning_rate_factor: float
    seconds: float
    burn_in_seconds: float
    most_samples: int
    largest_chunk: int
    smallest_chunk: int = 1
    multiple_of: int = 1


class Noise(_Message, frozen=True):
    """The measurements, in order, and the steps before each; `error` where the user's code failed."""

    measured: tuple[Chunks, ...]
    burn_in_steps: int
    after_steps: tuple[int, ...] = ()
    error: str = ""


class Train(_Message, frozen=True):
    """Train from the first weights for `seconds`, all learning rates multiplied. Answered by Trained.

    `samples` of those held out are evaluated, in parts of `part_size`, or of fewer where fewer are held out:
    at least `smallest_part`, a multiple of `multiple_of`. `most_samples`: the training ends after so many
    samples on each rank, as the user's whole training does.
    """

    batch_size: int
    learning_rate_factor: float
    seconds: float
    samples: int
    part_size: int
    seed: int
    most_samples: int | None = None
    smallest_part: int = 1
    multiple_of: int = 1


class Trained(_Message, frozen=True):
    """How a training went; `held_out` says which samples it was judged on, or why there was none.

    `by_peer`: it failed because another rank did.
    """

    training: Training | None
    held_out: str
    by_peer: bool = False


class TimeLoader(_Message, frozen=True):
    """Time a DataLoader that has nothing else to do, for `seconds` once it runs. Answered by Loaded."""

    batch_size: int
    workers: int
    seconds: float
    seed: int


class Loaded(_Message, frozen=True):
    """Seconds from batch to batch, or None: `detail` is the error, empty if there was too little to time."""

    batch_seconds: float | None
    detail: str = ""


class ListDevices(_Message, frozen=True):
    """Describe every device. Answered by Devices."""


class Began(_Message, frozen=True):
    """The session's process exists. Sent before any code of the user runs."""

    pid: int


class Opened(_Message, frozen=True):
    """The session is ready. `watch_bytes`: resident bytes above which the worker must be killed.

    `frameworks`: imports that a further session has already. `batch_size_source`: see Parts.
    """

    device: Device
    workload: Workload
    torch: str
    watch_bytes: int | None = None
    scan: Scan | None = None
    frameworks: tuple[str, ...] = ()
    batch_size_source: str = ""


class Devices(_Message, frozen=True):
    devices: tuple[Device, ...]


class Refused(_Message, frozen=True):
    """An error that the user has to repair, as its parts."""

    kind: str
    message: str
    code: str
    facts: tuple[str, ...]
    hint: str

    @classmethod
    def of(cls, error: AutobatchError) -> Refused:
        kind = type(error).__name__
        return cls(kind=kind, message=error.message, code=error.code, facts=error.facts, hint=error.hint)

    def rebuilt(self) -> AutobatchError:
        kind = _KINDS.get(self.kind, AutobatchError)
        return kind(self.message, code=self.code, facts=self.facts, hint=self.hint)


class Phase(_Message, frozen=True):
    """The work that begins; the last phase before the death of a worker says where it died."""

    name: str


class Tried(_Message, frozen=True):
    """How a try went. `cause` and `error` only where it failed.

    `step_seconds` and `load_seconds` are None where the samples vary in size: the try was made on the
    largest of them, which says nothing about a typical batch. Loading says nothing either where it takes
    samples that were kept. `sizes`: the sizes of the samples read so far. `skipped_steps` had gradients
    beyond the range of fp16, which a training skips as well. `kept_state`: attributes of the model that carry
    tensors from batch to batch, so that a batch of another size fails. `grown_bytes`: memory that each of the
    last steps added at least, of a try that was long enough to tell. `restartable`: the session can return to
    the state before its first try, weights included.
    """

    batch_size: int
    outcome: Outcome
    step_seconds: float | None = None
    load_seconds: float | None = None
    utilisation: float | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    steps: int = 0
    optimizer_steps: int = 0
    skipped_steps: int = 0
    finite: bool = True
    sizes: SampleSizes | None = None
    kept_state: tuple[str, ...] = ()
    grown_bytes: int | None = None
    restartable: bool = False
    phase: str = ""
    detail: str = ""
    cause: Cause | None = None
    error: Refused | None = None


class Timed(_Message, frozen=True):
    """One round: its mean step, and the seconds to load one batch, where they are measured."""

    batch_size: int
    step_seconds: float
    load_seconds: float | None
    utilisation: float | None
    steps: int
    optimizer_steps: int


class Exited(_Message, frozen=True):
    """The session's process is gone: exit code, or the negative signal."""

    status: int


Command = (
    Start
    | TakeFingerprint
    | TryOut
    | TraceMemory
    | TraceStorages
    | TimeRound
    | MeasureLossKind
    | MeasureNoise
    | Train
    | TimeLoader
    | ListDevices
)
Reply = (
    Began
    | Opened
    | Fingerprint
    | Devices
    | Refused
    | Phase
    | Tried
    | Timed
    | Traced
    | Storages
    | LossForm
    | Noise
    | Trained
    | Loaded
    | Exited
)

_encoder = msgspec.json.Encoder()
decode_command = msgspec.json.Decoder(Command).decode
decode_reply = msgspec.json.Decoder(Reply).decode


def send(stream: BinaryIO, message: Command | Reply) -> None:
    """Writes one message as a line, at once."""
    stream.write(_encoder.encode(message) + b"\n")
    stream.flush()
