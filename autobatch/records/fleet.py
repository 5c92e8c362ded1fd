"""The nodes of a cluster, what they cost, and what was measured on each kind of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autobatch.records.recommendation import Recommendation


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """The report of a node. `gpus`: the name of each; `cpus`: processors that may be used.

    `autobatch` and `torch`: the versions that are installed there.
    """

    cpu: str
    cpus: int
    memory_bytes: int
    gpus: tuple[str, ...]
    autobatch: str
    torch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """Nodes with the same hardware, for a training on one device.

    `device`: the GPU's name, or processor, processors and memory of a node without one; `devices`: how many
    of it each node has.
    """

    device: str
    devices: int = 1

    @property
    def name(self) -> str:
        """`8 x NVIDIA H100 80GB HBM3`, `AMD EPYC, 16 CPUs, 62 GiB`: the name that price files use."""
        return self.device if self.devices == 1 else f"{self.devices} x {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The price of an hour of a node, by the name of its kind."""

    currency: str
    per_hour: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A kind of node with its probe: an `answer`, or in `detail` why there is none.

    `relative_time`: to the same loss on one device, over the time on the fastest kind; None without a
    critical batch size. `cost`: of as much training as the fastest kind does in an hour, for one device's
    share of a node; None without a price.
    """

    kind: str
    nodes: int
    devices: int
    answer: Recommendation | None
    detail: str = ""
    samples_per_second: float | None = None
    step_seconds: float | None = None
    relative_time: float | None = None
    price_per_hour: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All kinds of node of a cluster, the fastest first, those without an answer last.

    `critical_batch_size`: pooled over all checks, in samples; None without any.
    """

    target: str
    members: tuple[Member, ...]
    critical_batch_size: float | None
    currency: str | None
    autobatch: str
    warnings: tuple[str, ...] = ()
