"""All that the first steps of a training show, as facts for the measuring process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import torch

from . import loaders, sightings
from .keras_optimizer import KerasOptimizer
from .memory import describe_device
from .tasks import Step, median_load
from .user_code import is_users, user_frame

if TYPE_CHECKING:
    from .watch import Watch


def of_first_steps(watch: Watch, steps: list[Step]) -> dict[str, Any]:
    """All that the first steps show: the fields of `scripts.messages.Observation`."""
    optimizer = watch.primary
    groups = getattr(optimizer, "param_groups", [])
    rates = set(watch.first_rates.get(id(optimizer), ()))
    loader, frame = watch.loader, user_frame(sys._getframe(1))
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    parameters = [p for group in groups for p in group["params"]]
    file, line = loaders.origin_of(loader)[0]
    allocated, reserved = watch.memory.peak()
    clean = [step for step in steps if step.clean]
    return {
        "steps": watch.steps,
        "step_seconds": [step.seconds for step in clean],
        "load_seconds": median_load(clean),
        "peak_bytes": allocated,
        "reserved_bytes": reserved,
        "sizes": [watch.size_of(step) for step in steps],
        "shape": next((list(step.shape) for step in reversed(steps) if step.shape), []),
        # Frameworks fetch a batch ahead at the beginning, which belongs to no step.
        "fetches": _most_common([len(step.sizes) for step in steps]),
        "other_fetches": _most_common([step.other_fetches for step in steps]),
        "backwards": _most_common([step.backwards for step in steps]),
        "losses_apart": _most_common([step.losses_apart for step in steps]),
        "losses": [step.loss for step in steps],
        "constant_input": watch.constant_inputs >= len(steps) - 2 > 0,
        "optimizer": _name(optimizer),
        "optimizers": [_name(each) for each in watch.optimizers],
        "learning_rate": rates.pop() if len(rates) == 1 else None,
        "decays": _decays(groups[0]) if groups else {},
        "model": type(watch.roots[0]).__name__ if watch.roots else "",
        "parameters": sum(p.numel() for p in parameters),
        "loader": None
        if loader is None
        else {
            "file": file,
            "line": line,
            "workers": loader.num_workers,
            "dataset_size": _samples_of(loader),
            "dataset": type(loader.dataset).__name__,
            "movable": bool(loaders.samplers_of(loader)),
        },
        "step_file": frame.f_code.co_filename if frame else "",
        "step_line": frame.f_lineno if frame else 0,
        "sightings": sightings.sightings(),
        "rank": torch.distributed.get_rank() if distributed else 0,
        "world_size": torch.distributed.get_world_size() if distributed else 1,
        "device": describe_device(),
        "torch": str(torch.__version__),
        "sources": _sources(),
        "packages": _packages(),
    }


def _decays(group: dict[str, Any]) -> dict[str, float]:
    """The share of its past that the optimizer keeps at each step: momentum, or Adam's beta2."""
    if group.get("betas"):
        return {"beta2": float(group["betas"][1])}
    return {"momentum": float(group["momentum"])} if group.get("momentum") else {}


def _name(optimizer: Any) -> str:
    return optimizer.name if isinstance(optimizer, KerasOptimizer) else type(optimizer).__name__


def _most_common(counts: list[int]) -> int:
    return max(reversed(counts), key=counts.count, default=0)


def _samples_of(loader: Any) -> int | None:
    """Samples of an epoch: those of the dataset, else of all batches; None where neither has a length."""
    try:
        return len(loader.dataset)
    except TypeError:
        pass
    try:
        return len(loader) * max(int(sampler.batch_size) for sampler in loaders.samplers_of(loader))
    except (TypeError, ValueError):
        return None


def _sources() -> list[str]:
    """The files of the user's own modules that are imported by now."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return sorted(
        {os.path.realpath(f) for f in files if isinstance(f, str) and os.path.isfile(f) and is_users(f)}
    )


def _packages() -> list[str]:
    """The first file of each installed package that is imported: an update of the package changes it."""
    files = [
        getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if "." not in name
    ]
    installed = {f for f in files if isinstance(f, str) and ("site-packages" in f or "dist-packages" in f)}
    return sorted(installed | {torch.version.__file__})
