"""A workload as a model file that counts: every batch that its model is run on becomes a line of a log.

CEILING_WORKLOAD names the workload, CEILING_LOG the file. A line is `train`, `evaluate` or `traced` (a pass
over fake tensors, which computes nothing) and the number of samples. Passes that ran out of memory count too.
With CEILING_UNTRACED the model can't be traced.
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ceilings import ground

workload = ground.load(os.environ["CEILING_WORKLOAD"])
dataset = workload.dataset
make_optimizer = workload.make_optimizer
loss_fn = workload.loss_fn
collate_fn = getattr(workload, "collate_fn", None)

_log = os.open(os.environ["CEILING_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def build_model() -> nn.Module:
    """The workload's model, counted."""
    model: nn.Module = workload.build_model()
    model.register_forward_pre_hook(_count, with_kwargs=True)
    return model


def _count(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if "CEILING_UNTRACED" in os.environ and _get_current_dispatch_mode() is not None:
        raise RuntimeError("not to be traced")
    inputs = next(iter((*args, *kwargs.values())))
    what = "traced" if isinstance(inputs, FakeTensor) else "train" if model.training else "evaluate"
    os.write(_log, f"{what} {len(inputs)}\n".encode())
