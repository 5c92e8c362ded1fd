"""Sample scripts as engines: how their sizes are measured."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from autobatch.records.limits import Limits
from autobatch.scripts.engine import ScriptEngine
from autobatch.scripts.scratch import scratch_folder
from tests.scripts.processes import sample


def test_slow_first_steps_are_the_measurement_of_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with (
        scratch_folder() as scratch,
        contextlib.closing(ScriptEngine(sample("sleeping.py"), Limits(), scratch)) as engine,
    ):
        engine.open()
        observed = engine.session.observed
        assert engine.is_slow(8)
        measured = engine.measure(8, 60.0)
        assert measured.round_seconds == observed.step_seconds
        assert measured.peak_bytes
        # The second size has steps of its own, and none of those that workers had prepared comes before.
        measured = engine.measure(4, 60.0)
        assert (measured.observed_size, measured.steps) == (4, 3)
        assert engine.session.proven == {4}
