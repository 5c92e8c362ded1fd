"""The commands that a report suggests as the most useful next step."""

from __future__ import annotations

import re
import shlex
from math import isfinite

from autobatch.records.limits import Limits, Precision
from autobatch.records.recommendation import Confidence, Recommendation
from autobatch.records.trial import LimitedBy
from autobatch.records.workload import Workload

# A target that a shell can name, such as `model.py` or `pkg.model:net`; objects given to `find` have none.
_COMMAND_TARGET = re.compile(r"[\w./\\][\w./\\:~+-]*(\.py|[.:]\w+)", re.ASCII)
_DEFAULTS = Limits()


def next_commands(recommendation: Recommendation) -> tuple[str, ...]:
    """Return the command that would make the answer surer; none where more time would not, or can't be asked.

    A search that ended with its budget, or an answer of low confidence, asks for twice the budget.
    """
    command, decision = probe_command(recommendation), recommendation.decision
    unsure = decision is not None and decision.level is Confidence.LOW
    if (
        not command
        or recommendation.stopped
        or not (unsure or recommendation.ceiling.limited_by is LimitedBy.BUDGET)
    ):
        return ()
    return (f"{command} --budget {2 * recommendation.limits.budget_seconds:.0f}s",)


def probe_command(recommendation: Recommendation) -> str:
    """Return the command that repeats this search; empty if it can't be written in full."""
    target = recommendation.workload.target
    # The records don't keep the options that described random inputs.
    if recommendation.workload.synthetic or not _COMMAND_TARGET.fullmatch(target):
        return ""
    ranks = recommendation.world_size
    start = "" if ranks == 1 else f"torchrun --nproc-per-node {ranks} -m "
    return start + (
        f"autobatch probe {shlex.quote(target)}{_training(recommendation.workload)}"
        f"{_options(recommendation.limits)}"
    )


def _training(workload: Workload) -> str:
    """Return epochs and precision, also if the target sets them: the next search has to answer the same."""
    epochs, precision = workload.epochs, workload.precision
    text = f" --epochs {epochs:g}" if epochs is not None and isfinite(epochs) and epochs > 0 else ""
    return text + ("" if precision in (None, Precision.FP32) else f" --precision {precision}")


def _options(limits: Limits) -> str:
    """Return the options of this search that the next search needs as well."""
    text = "" if limits.memory_bytes is None else f" --memory-limit {limits.memory_bytes}"
    if limits.memory_bytes is not None and limits.memory_bytes % 2**20 == 0:
        text = f" --memory-limit {limits.memory_bytes // 2**20}MiB"
    for name in ("min_batch", "max_batch", "multiple_of", "group", "global_batch", "objective"):
        value = getattr(limits, name)
        if value != getattr(_DEFAULTS, name):
            text += f" --{name.replace('_', '-')} {value}"
    return f"{text} --ceiling" if limits.ceiling else text
