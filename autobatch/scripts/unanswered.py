"""Questions of the engine protocol that only a model file can answer."""

from __future__ import annotations

from autobatch.engines import messages, trace_messages
from autobatch.records.errors import AutobatchError
from autobatch.records.workload import SampleSizes

_NO_REPLY = "a script has no answer to this"


class Unanswered:
    """What an engine for scripts says to them."""

    @property
    def sizes(self) -> SampleSizes | None:
        return None

    def take_fingerprint(self) -> messages.Fingerprint:
        return messages.Fingerprint(parts={}, detail=_NO_REPLY)

    def time_each(self, batch_size: int, seconds: float) -> list[float]:
        raise AutobatchError("a script is not timed rank by rank", code="not_timed_by_rank")

    def trace_memory(self, *, without_data: bool = False) -> trace_messages.Traced:
        return trace_messages.Traced(lines=(), detail=_NO_REPLY)

    def time_loader(self, command: messages.TimeLoader) -> messages.Loaded:
        return messages.Loaded(batch_seconds=None, detail=_NO_REPLY)
