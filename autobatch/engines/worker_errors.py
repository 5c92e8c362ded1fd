"""The ways in which a worker gives no reply."""

from __future__ import annotations


class WorkerEndedError(Exception):
    """There is no reply, and no session any more. `phase`: its last one, empty before the first."""

    def __init__(self, message: str, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class WorkerDiedError(WorkerEndedError):
    """The session's process ended by itself. `status`: exit code, or the negative signal."""

    def __init__(self, status: int, phase: str) -> None:
        super().__init__(f"the worker ended with status {status}", phase)
        self.status = status


class WorkerHungError(WorkerEndedError):
    """No reply in time; the session was killed."""

    def __init__(self, phase: str) -> None:
        super().__init__("the worker did not answer in time", phase)


class WorkerTookTooMuchError(WorkerEndedError):
    """The session held more memory than it may, where the system's own limit did not hold; it was killed."""

    def __init__(self, resident_bytes: int, phase: str) -> None:
        super().__init__(f"the worker held {resident_bytes:,} bytes", phase)
        self.resident_bytes = resident_bytes


class WorkerStoppedError(WorkerEndedError):
    """The session was killed because another rank has failed, so that it would have waited in vain."""

    def __init__(self, phase: str) -> None:
        super().__init__("another rank has failed", phase)
