"""Pure: the replies of all ranks as a single reply. The worst of them counts.

A failure on one rank ends the step on all. The others fail with it, because they wait in vain. Such a failure
(`Cause.PEER`) says nothing where another rank has failed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypeVar

import msgspec

from autobatch.devices.oom import Cause
from autobatch.engines import messages, worker_failures
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError, ranks_differ
from autobatch.records.trial import Outcome

_Number = TypeVar("_Number", int, float)
# The most telling first: a rank that waits for another times out, and so does the rank that hangs.
_MOST_TELLING_FIRST = (Outcome.OUT_OF_MEMORY, Outcome.CRASHED, Outcome.FAILED, Outcome.TIMEOUT)
_PEER_ALONE = "the ranks have lost each other"


def refusal(replies: Sequence[messages.Reply]) -> AutobatchError | None:
    """The error of a rank that refused, preferably by itself; None where none has refused."""
    refused = [(rank, reply) for rank, reply in enumerate(replies) if isinstance(reply, messages.Refused)]
    if not refused:
        return None
    culprits = [
        (rank, reply) for rank, reply in refused if reply.code != worker_failures.RANK_FAILED
    ] or refused
    alike = [rank for rank, reply in culprits if reply.message == culprits[0][1].message]
    error = culprits[0][1].rebuilt()
    where = _where(alike, len(replies))
    error.facts = (*error.facts, *((where,) if where else ()))
    return error


def opened(replies: Sequence[messages.Opened]) -> messages.Opened:
    """The first rank's facts, with the least memory of all ranks. Raises TargetError where they differ."""
    first = replies[0]
    for rank, reply in enumerate(replies):
        if worker_failures.identity(reply.workload) != worker_failures.identity(first.workload):
            raise _differ(rank, first, reply)
    sizes = {reply.workload.dataset_size for reply in replies} - {None}
    size = min((size for size in sizes if size is not None), default=None)
    return msgspec.structs.replace(
        first,
        device=_tightest([reply.device for reply in replies]),
        workload=replace(first.workload, dataset_size=size),
    )


def tried(replies: Sequence[messages.Tried | messages.Timed]) -> messages.Tried:
    """The try of all ranks. A failure of any rank is that of all; every figure is the worst of theirs."""
    failed = [
        (rank, reply)
        for rank, reply in enumerate(replies)
        if isinstance(reply, messages.Tried) and reply.outcome is not Outcome.OK
    ]
    if failed:
        return _failed(failed, len(replies))
    passed = [reply for reply in replies if isinstance(reply, messages.Tried)]
    return msgspec.structs.replace(
        passed[0],
        step_seconds=_highest([reply.step_seconds for reply in passed]),
        load_seconds=_highest([reply.load_seconds for reply in passed]),
        utilisation=_mean([reply.utilisation for reply in passed]),
        peak_bytes=_highest([reply.peak_bytes for reply in passed]),
        reserved_bytes=_highest([reply.reserved_bytes for reply in passed]),
        optimizer_steps=min(reply.optimizer_steps for reply in passed),
        skipped_steps=max(reply.skipped_steps for reply in passed),
        finite=all(reply.finite for reply in passed),
    )


def timed(replies: Sequence[messages.Tried | messages.Timed]) -> messages.Timed | messages.Tried:
    """A round of all ranks takes as long as that of the slowest."""
    passed = [reply for reply in replies if isinstance(reply, messages.Timed)]
    if len(passed) < len(replies):
        return tried(replies)
    return msgspec.structs.replace(
        passed[0],
        step_seconds=max(reply.step_seconds for reply in passed),
        load_seconds=_highest([reply.load_seconds for reply in passed]),
        utilisation=_mean([reply.utilisation for reply in passed]),
    )


def trained(replies: Sequence[messages.Trained]) -> messages.Trained:
    """The first rank's training, whose weights all have; a failure of any rank is that of all."""
    failed = [
        (rank, reply)
        for rank, reply in enumerate(replies)
        if reply.training is None or reply.training.outcome is not Outcome.OK
    ]
    if not failed:
        return replies[0]
    culprits = [(rank, reply) for rank, reply in failed if not reply.by_peer] or failed
    _, worst = culprits[0]
    if worst.training is None:
        return worst
    where = _where([rank for rank, _ in culprits], len(replies))
    detail = f"{worst.training.detail} ({where})" if where else worst.training.detail
    return msgspec.structs.replace(worst, training=replace(worst.training, detail=detail))


def loaded(replies: Sequence[messages.Loaded]) -> messages.Loaded:
    """The slowest loader: all ranks wait for its batch. One that gives none is the answer."""
    for reply in replies:
        if reply.batch_seconds is None:
            return reply
    return max(replies, key=lambda reply: reply.batch_seconds or 0.0)


def _failed(failed: Sequence[tuple[int, messages.Tried]], ranks: int) -> messages.Tried:
    culprits = [(rank, reply) for rank, reply in failed if reply.cause is not Cause.PEER]
    if not culprits:
        _, first = failed[0]
        return msgspec.structs.replace(
            first, outcome=Outcome.CRASHED, detail=f"{_PEER_ALONE}: {first.detail}"
        )
    _, worst = min(culprits, key=lambda pair: _MOST_TELLING_FIRST.index(pair[1].outcome))
    where = _where([rank for rank, reply in culprits if reply.outcome is worst.outcome], ranks)
    if not where:
        return worst
    error = worst.error
    if error is not None:
        error = msgspec.structs.replace(error, facts=(*error.facts, where))
    detail = worst.detail
    if error is None or error.code != "stream_ended":
        detail = f"{detail} ({where})"
    return msgspec.structs.replace(worst, detail=detail, error=error)


def _where(culprits: Sequence[int], ranks: int) -> str:
    """`on rank 1`, or `on ranks 1 and 3`, or how many; nothing where it is all of them."""
    if len(culprits) == ranks:
        return ""
    if len(culprits) == 1:
        return f"on rank {culprits[0]}"
    if len(culprits) <= 4:
        return f"on ranks {', '.join(map(str, culprits[:-1]))} and {culprits[-1]}"
    return f"on {len(culprits):,} of {ranks:,} ranks, the first of them {culprits[0]}"


def _differ(rank: int, first: messages.Opened, other: messages.Opened) -> AutobatchError:
    return ranks_differ(
        tuple(
            f"rank {number}: {workload.model}, {workload.parameters:,} parameters, {workload.optimizer}, "
            f"{workload.loss}, {workload.dataset}"
            for number, workload in ((0, first.workload), (rank, other.workload))
        )
    )


def _tightest(devices: Sequence[Device]) -> Device:
    """The first rank's device, with the limit of the rank that has the least memory."""
    limits = [
        (device.limit_bytes, rank) for rank, device in enumerate(devices) if device.limit_bytes is not None
    ]
    if not limits:
        return devices[0]
    least, rank = min(limits)
    if least == devices[0].limit_bytes:
        return devices[0]
    source = f"rank {rank}, the least of {len(devices)}: {devices[rank].limit_source}"
    return replace(devices[0], limit_bytes=least, limit_source=source, free_bytes=devices[rank].free_bytes)


def _highest(values: Sequence[_Number | None]) -> _Number | None:
    measured = [value for value in values if value is not None]
    return max(measured) if len(measured) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return fmean(measured) if measured else None
