"""The facts that errors name."""

from __future__ import annotations

from autobatch.scripts import refusals
from autobatch.scripts.messages import Sighting
from tests.scripts.observations import observed


def test_every_number_that_may_be_the_batch_size_is_named():
    numbers = [
        Sighting(source="variable", name="bs", flags=[], value=40),
        Sighting(source="argparse", name="test_batch", flags=["--test-batch"], value=8),
        Sighting(source="variable", name="epochs", flags=[], value=3),
    ]
    error = refusals.no_knob(observed(loader=None, sightings=numbers))
    assert error.facts[2:] == (
        "seen: the variable `bs` is 40; a placeholder has to set it",
        "seen: `--test-batch` is 8",
    )
