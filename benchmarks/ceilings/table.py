"""What was measured, as a table, and the targets that autobatch has to reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ceilings.processes import TOOL
from ceilings.store import Store, Workload, middle

RIVAL = "lightning_binsearch"
_COLUMNS = {
    "method": 19,
    "answer": 7,
    "of truth": 9,
    "spread": 14,
    "survived": 11,
    "untried": 8,
    "steps": 6,
    "samples": 9,
    "wall s": 7,
    "crashed": 8,
}


def render(store: Store) -> str:
    """All workloads, then the targets. A figure that isn't there yet is a dash."""
    blocks = [_block(workload) for workload in store.workloads]
    targets = [line for workload in store.workloads for line in _targets(workload)]
    return "\n\n".join([*blocks, "\n".join(["targets", *targets])])


def _block(workload: Workload) -> str:
    truths = workload.truths
    head = f"{workload.name}: truth {workload.truth or '-'}"
    if truths:
        head += f" (median of {len(truths)}: {truths[0]} to {truths[-1]})"
    rows = [_row(workload, method) for method in workload.methods]
    notes = [f"  {method}: {crash}" for method in workload.methods for crash in _crashes(workload, method)]
    return "\n".join([head, _line(tuple(_COLUMNS)), *map(_line, rows), *notes, *_islands(workload)])


def _islands(workload: Workload) -> Iterator[str]:
    """Answers above the truth at which every process survived: survival falls unevenly with the size."""
    for size in workload.distinct_sizes():
        judged = workload.judged(size)
        if size > (workload.truth or size) and judged["of"] and judged["survived"] == judged["of"]:
            yield f"  above the truth, {size}: {judged['survived']} of {judged['of']} survived"


def _row(workload: Workload, method: str) -> tuple[str, ...]:
    answers, sizes = workload.answers(method), workload.sizes(method)
    crashed = sum(bool(one["crash"]) for one in answers)
    return (
        method,
        str(sizes[(len(sizes) - 1) // 2]) if sizes else "-",
        _share(_of_truth(workload, method)),
        f"{sizes[0]}..{sizes[-1]}" if sizes else "-",
        _survived(workload, sizes),
        f"{sum(map(_untried, answers))} of {len(answers)}",
        f"{middle(answers, 'steps'):.0f}",
        f"{middle(answers, 'samples'):,.0f}",
        f"{middle(answers, 'wall_seconds'):.1f}",
        f"{crashed} of {len(answers)}",
    )


def _line(cells: tuple[str, ...]) -> str:
    first, *rest = zip(cells, _COLUMNS.values(), strict=True)
    return f"  {first[0]:<{first[1]}}" + " ".join(f"{cell:>{width}}" for cell, width in rest)


def _of_truth(workload: Workload, method: str) -> float | None:
    sizes, truth = workload.sizes(method), workload.truth
    return sizes[(len(sizes) - 1) // 2] / truth if sizes and truth else None


def _survived(workload: Workload, sizes: list[int]) -> str:
    """`20 of 20`, or that of the answer that did worst."""
    judged = [workload.judged(size) for size in set(sizes)]
    judged = [one for one in judged if one["of"]]
    if not judged:
        return "-"
    worst = min(judged, key=lambda one: one["survived"] / one["of"])
    return f"{worst['survived']} of {worst['of']}"


def _untried(answer: dict[str, Any]) -> bool:
    """True for an answer that was given without a training step at that size."""
    size = answer["batch_size"]
    return size is not None and all(size != tried for tried, _ in answer["tried"])


def _crashes(workload: Workload, method: str) -> list[str]:
    return sorted({one["crash"] for one in workload.answers(method) if one["crash"]})


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _targets(workload: Workload) -> Iterator[str]:
    mine = workload.answers(TOOL)
    theirs = [one for one in workload.answers(RIVAL) if not one["crash"]]
    if not mine:
        return
    reached = _of_truth(workload, TOOL)
    if reached is not None:
        yield _target(workload, "answer >= 95% of the truth", f"{reached:.1%}", reached >= 0.95)
    judged = [workload.judged(size) for size in workload.distinct_sizes(TOOL)]
    if judged and all(one["of"] for one in judged):
        told = ", ".join(f"{one['survived']} of {one['of']}" for one in judged)
        survive = all(one["survived"] == one["of"] for one in judged)
        yield _target(workload, "every answer survives", told, survive)
    crashes = _crashes(workload, TOOL)
    yield _target(workload, "no crash", ", ".join(crashes) or "none", not crashes)
    for what, field, most in (("samples", "samples", 1 / 3), ("wall time", "wall_seconds", 1 / 2)):
        if theirs:
            ratio = middle(mine, field) / middle(theirs, field)
            yield _target(workload, f"{what} <= {most:.2f} of {RIVAL}", f"{ratio:.2f}", ratio <= most)


def _target(workload: Workload, what: str, told: str, reached: bool) -> str:
    return f"  {'ok  ' if reached else 'MISS'} {workload.name:<16} {what:<44} {told}"
