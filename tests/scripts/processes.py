"""Commands of the sample scripts, started as a measurement starts them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autobatch.scripts.command import Command
from autobatch.scripts.process import ScriptProcess
from autobatch.scripts.scratch import scratch_folder

SAMPLES = Path(__file__).parent / "samples"
# Threads of a busy machine wait for each other: so small a model is quicker without.
VARIABLES = ("OMP_NUM_THREADS=1",)
SECONDS = 120.0


def sample(name: str, *arguments: str) -> Command:
    """The command that runs a sample script."""
    return Command(words=(sys.executable, str(SAMPLES / name), *arguments), variables=VARIABLES)


@contextmanager
def started(command: Command, in_code: Mapping[str, object] | None = None) -> Iterator[ScriptProcess]:
    """A process of the command, ended with the block."""
    with scratch_folder() as scratch:
        process = ScriptProcess(command, scratch, in_code=in_code)
        try:
            yield process
        finally:
            process.close()


def measure(
    batch_size: int, *, in_place: bool = True, rounds: int = 3, settle: int | None = None
) -> dict[str, object]:
    """The order for a measurement at a size."""
    return {
        "do": "measure",
        "batch_size": batch_size,
        "in_place": in_place,
        "dimension": 0,
        "rounds": rounds,
        "round_steps": 3,
        "warm_up": 1,
        "settle": settle,
        "seconds": SECONDS,
    }
