"""Pure: the kinds of node of a cluster, and the time and cost of each to train to the same loss.

The hardware alone, as the nodes report it, makes the kind. Steps to a loss depend on the batch size and not
on the hardware, S_min (1 + B_crit / B), so all kinds have one critical batch size, pooled over their checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, isfinite, log

from autobatch.decision.critical_batch import relative_time
from autobatch.decision.step_time import StepTimeLaw
from autobatch.decision.trial_set import TrialSet
from autobatch.records.errors import AutobatchError
from autobatch.records.fleet import Fleet, Member, NodeKind, NodeReport, Prices
from autobatch.records.recommendation import Recommendation

_GIB = 1 << 30


def kind_of(report: NodeReport, *, cpus: int, gpus: int) -> NodeKind:
    """The kind of a node with `cpus` usable processors and `gpus` usable GPUs."""
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
    """The fleet of (kind, number of nodes, answer or error of its probe)."""
    answers = [outcome for _, _, outcome in probed if isinstance(outcome, Recommendation)]
    critical = pooled_critical_batch_size(answers)
    members = [_member(kind, nodes, outcome, prices) for kind, nodes, outcome in probed]
    times = {
        member.kind: time
        for member in members
        if member.answer is not None and (time := _time(member.answer, critical)) is not None
    }
    compared = [_compared(member, times, min(times.values(), default=1.0)) for member in members]
    return Fleet(
        target=target,
        members=tuple(sorted(compared, key=_order)),
        critical_batch_size=critical,
        currency=None if prices is None else prices.currency,
        autobatch=version,
        warnings=(*warnings, *_unpriced(compared, prices)),
    )


def pooled_critical_batch_size(answers: Sequence[Recommendation]) -> float | None:
    """The geometric mean of the checks' critical batch sizes, weighted by 1 / log_sd^2; None without any."""
    weighted = [
        (log(check.critical_batch_size), check.log_sd**-2)
        for check in (answer.check for answer in answers)
        if check is not None
        and check.critical_batch_size
        and check.log_sd
        and isfinite(check.critical_batch_size)
        and isfinite(check.log_sd)
    ]
    if not weighted:
        return None
    return exp(sum(value * weight for value, weight in weighted) / sum(weight for _, weight in weighted))


def _member(
    kind: NodeKind, nodes: int, outcome: Recommendation | AutobatchError, prices: Prices | None
) -> Member:
    member = Member(
        kind=kind.name,
        nodes=nodes,
        devices=kind.devices,
        answer=None,
        price_per_hour=None if prices is None else prices.per_hour.get(kind.name),
    )
    if isinstance(outcome, AutobatchError):
        return replace(member, detail=": ".join((outcome.message, *outcome.facts[:1])))
    return replace(
        member,
        answer=outcome,
        samples_per_second=outcome.chosen.samples_per_second,
        step_seconds=_step_seconds(outcome),
    )


def _compared(member: Member, times: Mapping[str, float], fastest: float) -> Member:
    if member.kind not in times:
        return member
    ratio = times[member.kind] / fastest
    price = member.price_per_hour
    cost = None if price is None else price / member.devices * ratio
    return replace(member, relative_time=ratio, cost=cost)


def _time(answer: Recommendation | None, critical: float | None) -> float | None:
    """Time to the same loss in units of S_min at the answer's batch size."""
    law = None if answer is None else _step_time(answer)
    if answer is None or critical is None or law is None:
        return None
    return relative_time(answer.batch_size, critical, law)


def _step_seconds(answer: Recommendation) -> float | None:
    law = _step_time(answer)
    return None if law is None else law.step_seconds_at(answer.batch_size)


def _step_time(answer: Recommendation) -> StepTimeLaw | None:
    return TrialSet.of(answer.curve).step_time


def _order(member: Member) -> tuple[bool, float, float]:
    """Fastest first; by throughput where times are unknown."""
    time = member.relative_time
    return member.answer is None, float("inf") if time is None else time, -(member.samples_per_second or 0.0)


def _unpriced(members: Sequence[Member], prices: Prices | None) -> tuple[str, ...]:
    if prices is None:
        return ()
    return tuple(f"no price is given for `{m.kind}`" for m in members if m.price_per_hour is None)
