"""The backend of Keras that a worker needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

from autobatch.workload.keras import backend


def test_a_worker_takes_torch_only_where_keras_would_find_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert backend.worker_environment() == {}
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert backend.worker_environment() == {"KERAS_BACKEND": "torch"}
    monkeypatch.delitem(sys.modules, "keras")
    assert backend.worker_environment() == {"KERAS_BACKEND": "torch"}
    # A backend that is installed was meant, and is told of as such.
    (tmp_path / "keras.json").write_text('{"backend": "json"}')
    assert backend.worker_environment() == {}
