"""A search before it begins: what was detected and inferred, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.device import Device
from autobatch.records.limits import Limits
from autobatch.records.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A search that was opened, and not run.

    `batch_size_source`: where the current batch size is from; empty without one. `start_seconds`: measured,
    from the start of the worker until it was ready. `cached`: the cache has the answer, so a search measures
    nothing.
    """

    workload: Workload
    device: Device
    limits: Limits
    batch_size_source: str
    start_seconds: float
    cached: bool
    autobatch: str
    torch: str
