"""Pure: what all ranks have said, as the reply of one. The worst of them counts.

A failure on one rank ends the step on all. The others fail with it, because they wait in vain: such a failure
(`Cause.PEER`) says nothing where another rank has one of its own.
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
# What tells most comes first: a rank that waits for another times out, and so does the one that hangs.
_TELLING = (Outcome.OUT_OF_MEMORY, Outcome.CRASHED, Outcome.FAILED, Outcome.TIMEOUT)
_PEER_ALONE = "the ranks have lost each other"


def refusal(replies: Sequence[messages.Reply]) -> AutobatchError | None:
    """The error of the ranks that refused, of their own if there is one; None where none has."""
    refused = [(rank, one) for rank, one in enumerate(replies) if isinstance(one, messages.Refused)]
    if not refused:
        return None
    own = [(rank, one) for rank, one in refused if one.code != worker_failures.RANK_FAILED] or refused
    alike = [rank for rank, one in own if one.message == own[0][1].message]
    error = own[0][1].rebuilt()
    where = _told(alike, len(replies))
    error.facts = (*error.facts, *((where,) if where else ()))
    return error


def opened(replies: Sequence[messages.Opened]) -> messages.Opened:
    """The first rank's, with the least memory that one has. Raises TargetError where they differ."""
    first = replies[0]
    for rank, one in enumerate(replies):
        if worker_failures.identity(one.workload) != worker_failures.identity(first.workload):
            raise _differ(rank, first, one)
    sizes = {one.workload.dataset_size for one in replies} - {None}
    size = min((size for size in sizes if size is not None), default=None)
    return msgspec.structs.replace(
        first,
        device=_tightest([one.device for one in replies]),
        workload=replace(first.workload, dataset_size=size),
    )


def tried(replies: Sequence[messages.Tried | messages.Timed]) -> messages.Tried:
    """What all ranks have tried, where one has failed or none has: every figure is the worst of them."""
    failed = [
        (rank, one)
        for rank, one in enumerate(replies)
        if isinstance(one, messages.Tried) and one.outcome is not Outcome.OK
    ]
    if failed:
        return _failed(failed, len(replies))
    passed = [one for one in replies if isinstance(one, messages.Tried)]
    return msgspec.structs.replace(
        passed[0],
        step_seconds=_highest([one.step_seconds for one in passed]),
        load_seconds=_highest([one.load_seconds for one in passed]),
        utilisation=_mean([one.utilisation for one in passed]),
        peak_bytes=_highest([one.peak_bytes for one in passed]),
        reserved_bytes=_highest([one.reserved_bytes for one in passed]),
        optimizer_steps=min(one.optimizer_steps for one in passed),
        skipped_steps=max(one.skipped_steps for one in passed),
        finite=all(one.finite for one in passed),
    )


def timed(replies: Sequence[messages.Tried | messages.Timed]) -> messages.Timed | messages.Tried:
    """A round of all ranks takes as long as that of the slowest."""
    passed = [one for one in replies if isinstance(one, messages.Timed)]
    if len(passed) < len(replies):
        return tried(replies)
    return msgspec.structs.replace(
        passed[0],
        step_seconds=max(one.step_seconds for one in passed),
        load_seconds=_highest([one.load_seconds for one in passed]),
        utilisation=_mean([one.utilisation for one in passed]),
    )


def trained(replies: Sequence[messages.Trained]) -> messages.Trained:
    """The first rank's training, whose weights all have; a failure of any rank is that of all."""
    failed = [
        (rank, one)
        for rank, one in enumerate(replies)
        if one.training is None or one.training.outcome is not Outcome.OK
    ]
    if not failed:
        return replies[0]
    own = [(rank, one) for rank, one in failed if not one.by_peer] or failed
    _, worst = own[0]
    if worst.training is None:
        return worst
    where = _told([rank for rank, _ in own], len(replies))
    detail = f"{worst.training.detail} ({where})" if where else worst.training.detail
    return msgspec.structs.replace(worst, training=replace(worst.training, detail=detail))


def loaded(replies: Sequence[messages.Loaded]) -> messages.Loaded:
    """The slowest loader: all ranks wait for its batch. One that gives none is the answer."""
    for one in replies:
        if one.batch_seconds is None:
            return one
    return max(replies, key=lambda one: one.batch_seconds or 0.0)


def _failed(failed: Sequence[tuple[int, messages.Tried]], ranks: int) -> messages.Tried:
    own = [(rank, one) for rank, one in failed if one.cause is not Cause.PEER]
    if not own:
        _, first = failed[0]
        return msgspec.structs.replace(
            first, outcome=Outcome.CRASHED, detail=f"{_PEER_ALONE}: {first.detail}"
        )
    _, worst = min(own, key=lambda pair: _TELLING.index(pair[1].outcome))
    where = _told([rank for rank, one in own if one.outcome is worst.outcome], ranks)
    if not where:
        return worst
    error = worst.error
    if error is not None:
        error = msgspec.structs.replace(error, facts=(*error.facts, where))
    detail = worst.detail
    if error is None or error.code != "stream_ended":
        detail = f"{detail} ({where})"
    return msgspec.structs.replace(worst, detail=detail, error=error)


def _told(found: Sequence[int], ranks: int) -> str:
    """`on rank 1`, or `on ranks 1 and 3`, or how many; nothing where it is all of them."""
    if len(found) == ranks:
        return ""
    if len(found) == 1:
        return f"on rank {found[0]}"
    if len(found) <= 4:
        return f"on ranks {', '.join(map(str, found[:-1]))} and {found[-1]}"
    return f"on {len(found):,} of {ranks:,} ranks, the first of them {found[0]}"


def _differ(rank: int, first: messages.Opened, other: messages.Opened) -> AutobatchError:
    return ranks_differ(
        tuple(
            f"rank {number}: {one.model}, {one.parameters:,} parameters, {one.optimizer}, {one.loss}, "
            f"{one.dataset}"
            for number, one in ((0, first.workload), (rank, other.workload))
        )
    )


def _tightest(devices: Sequence[Device]) -> Device:
    """The first rank's device, with the limit of the one that has the least memory."""
    limits = [(one.limit_bytes, rank) for rank, one in enumerate(devices) if one.limit_bytes is not None]
    if not limits:
        return devices[0]
    least, rank = min(limits)
    if least == devices[0].limit_bytes:
        return devices[0]
    source = f"rank {rank}, the least of {len(devices)}: {devices[rank].limit_source}"
    return replace(devices[0], limit_bytes=least, limit_source=source, free_bytes=devices[rank].free_bytes)


def _highest(values: Sequence[_Number | None]) -> _Number | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
