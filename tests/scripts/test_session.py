"""Sample scripts as sessions: how a size is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from autobatch.records.limits import Limits
from autobatch.scripts.scratch import scratch_folder
from autobatch.scripts.session import Session
from tests.scripts.processes import sample


def test_a_flag_of_two_loaders_takes_a_start_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with scratch_folder() as scratch:
        session = Session(sample("paired.py"), Limits(), scratch)
        try:
            session.open()
            assert session.observed.other_fetches == 1
            assert (session.knob.name, session.current_size) == ("`--batch-size`", 8)
            # In one process, the second loader would keep its size.
            assert session.starts_for(16)
            assert session.start_at(16).batch_size == 16
            assert session.proven == {16}
        finally:
            session.end()
