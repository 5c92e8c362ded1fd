"""The messages about traces: the memory of a step, and its storages."""

from __future__ import annotations

import msgspec

from autobatch.memory.storage_log import Lifetime
from autobatch.records.trial import MemoryLine


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class TraceMemory(_Message, frozen=True):
    """Log the storages of a step at two small sizes. Answered by Traced; the session is used up then.

    `without_data`: on tensors that take no memory, whatever the device, with lines down to a batch of none.
    """

    without_data: bool = False


class Traced(_Message, frozen=True):
    """The bytes alive at the peak, as the highest of `lines`; without lines, `detail` says why.

    With lines, `detail` names the memory that they leave out, if any.
    """

    lines: tuple[MemoryLine, ...]
    detail: str = ""


class TraceStorages(_Message, frozen=True):
    """Log the storages of a step at two sizes. Answered by Storages; the session is good for more of these.

    `cuda`: as CUDA would hold them, whatever the device. `fake`: on tensors that take no memory.
    """

    sizes: tuple[int, int]
    cuda: bool
    fake: bool
    channels_last: bool = False


class Storages(_Message, frozen=True):
    """The storages of a step at any size; without `lifetimes`, `detail` says why there are none.

    `alike` is False where the step was traced at both sizes and is another one at the second. `guessed`: how
    often a number was read that a fake tensor does not have. `traits`: traits that may take more memory.
    """

    lifetimes: tuple[Lifetime, ...]
    detail: str = ""
    alike: bool = True
    guessed: int = 0
    traits: tuple[str, ...] = ()
