"""Pure: what kinds of node a cluster has, and how long and for how much each of them trains to the same loss.

A kind of node is told by its hardware alone, as the nodes report it. Steps to a loss depend on the batch size
and not on the hardware, S_min (1 + B_crit / B), so all kinds have one critical batch size: what their checks
have found, taken together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, isfinite, log

from autobatch.decision.critical_batch import relative_time
from autobatch.decision.time_to_loss import step_time_law
from autobatch.decision.trial_set import TrialSet
from autobatch.records.errors import AutobatchError
from autobatch.records.fleet import Fleet, Member, NodeKind, NodeReport, Prices
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Trial

_GIB = 1 << 30


def kind_of(report: NodeReport, *, cpus: int, gpus: int) -> NodeKind:
    """The kind of a node of which so many processors and GPUs may be used."""
    if gpus:
        names = sorted({" ".join(name.split()) for name in report.gpus}) or ["GPU"]
        return NodeKind(device=" + ".join(names), devices=gpus)
    memory = round(report.memory_bytes / _GIB)
    processors = f"{cpus} CPU" if cpus == 1 else f"{cpus} CPUs"
    return NodeKind(device=f"{' '.join(report.cpu.split())}, {processors}, {memory} GiB")


def assemble(
    target: str,
    probed: Sequence[tuple[NodeKind, int, Recommendation | AutobatchError]],
    prices: Prices | None,
    *,
    version: str,
    warnings: Sequence[str] = (),
) -> Fleet:
    """The fleet of (kind, number of nodes, what its probe came to)."""
    critical = pooled_critical_batch_size([one for _, _, one in probed if isinstance(one, Recommendation)])
    members = [_member(kind, nodes, found, prices) for kind, nodes, found in probed]
    times = {one.kind: _time(one.answer, critical) for one in members if one.answer is not None}
    known = {kind: time for kind, time in times.items() if time is not None}
    compared = [_compared(one, known, min(known.values(), default=1.0)) for one in members]
    return Fleet(
        target=target,
        members=tuple(sorted(compared, key=_order)),
        critical_batch_size=critical,
        currency=None if prices is None else prices.currency,
        autobatch=version,
        warnings=(*warnings, *_unpriced(compared, prices)),
    )


def pooled_critical_batch_size(answers: Sequence[Recommendation]) -> float | None:
    """The mean of what the checks found, of its logarithm, weighted by 1 / log_sd^2; None without any."""
    found = [
        (log(one.check.critical_batch_size), one.check.log_sd**-2)
        for one in answers
        if one.check is not None
        and one.check.critical_batch_size
        and one.check.log_sd
        and isfinite(one.check.critical_batch_size)
        and isfinite(one.check.log_sd)
    ]
    if not found:
        return None
    return exp(sum(value * weight for value, weight in found) / sum(weight for _, weight in found))


def _member(
    kind: NodeKind, nodes: int, found: Recommendation | AutobatchError, prices: Prices | None
) -> Member:
    member = Member(
        kind=kind.name,
        nodes=nodes,
        devices=kind.devices,
        answer=None,
        price_per_hour=None if prices is None else prices.per_hour.get(kind.name),
    )
    if isinstance(found, AutobatchError):
        return replace(member, detail=": ".join((found.message, *found.facts[:1])))
    return replace(
        member,
        answer=found,
        samples_per_second=found.chosen.samples_per_second,
        step_seconds=_step_seconds(found),
    )


def _compared(member: Member, times: Mapping[str, float], quickest: float) -> Member:
    if member.kind not in times:
        return member
    ratio = times[member.kind] / quickest
    price = member.price_per_hour
    cost = None if price is None else price / member.devices * ratio
    return replace(member, relative_time=ratio, cost=cost)


def _time(answer: Recommendation | None, critical: float | None) -> float | None:
    """Time to the same loss in units of S_min at the answer's batch size."""
    if answer is None or critical is None or _step_seconds(answer) is None:
        return None
    return relative_time(answer.batch_size, critical, step_time_law(_passed(answer)))


def _step_seconds(answer: Recommendation) -> float | None:
    passed = _passed(answer)
    if not any(trial.step_seconds for trial in passed):
        return None
    return step_time_law(passed).step_seconds_at(answer.batch_size)


def _passed(answer: Recommendation) -> list[Trial]:
    return [trial for trial in TrialSet(answer.trials).passed if trial.step_seconds]


def _order(member: Member) -> tuple[bool, float, float]:
    """Quickest first; where times are unknown, by throughput."""
    time = member.relative_time
    return member.answer is None, float("inf") if time is None else time, -(member.samples_per_second or 0.0)


def _unpriced(members: Sequence[Member], prices: Prices | None) -> tuple[str, ...]:
    if prices is None:
        return ()
    return tuple(f"no price is given for `{one.kind}`" for one in members if one.price_per_hour is None)
