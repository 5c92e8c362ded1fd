"""Observations of scripts, for tests of what follows from them."""

from __future__ import annotations

from typing import Any

import msgspec

from autobatch.scripts.messages import DeviceFacts, LoaderPlace, Observation, Sighting

LOADER = LoaderPlace(
    file="/home/user/train.py", line=12, workers=0, dataset="Images", dataset_size=6400, movable=True
)
OBSERVED = Observation(
    ended=False,
    steps=10,
    step_seconds=[0.01] * 9,
    sizes=[32] * 10,
    shape=[32, 3],
    fetches=1,
    backwards=1,
    losses_apart=1,
    losses=[1.0] * 10,
    constant_input=False,
    optimizer="SGD",
    optimizers=["SGD"],
    learning_rate=0.1,
    decays={},
    model="Net",
    parameters=100,
    loader=LOADER,
    step_file="/home/user/train.py",
    step_line=30,
    sightings=[],
    rank=0,
    world_size=1,
    device=DeviceFacts(kind="cpu", index=0, name="", threads=2),
    torch="2.13.0",
    sources=[],
    packages=[],
)


def observed(**changes: Any) -> Observation:
    """A plain training at batch size 32, with changes."""
    return msgspec.structs.replace(OBSERVED, **changes)


def flag(name: str, value: float, *flags: str) -> Sighting:
    """A number that argparse read."""
    spellings = list(flags) or [f"--{name.replace('_', '-')}"]
    return Sighting(source="argparse", name=name, flags=spellings, value=value)
