"""Which backend Keras takes in a worker. Nothing of Keras is imported here."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

BACKEND = "KERAS_BACKEND"


def worker_environment() -> dict[str, str]:
    """KERAS_BACKEND as a worker needs it, empty where Keras finds it by itself.

    Keras falls back to TensorFlow, and writes that into its settings file the first time that it is imported.
    Where that isn't installed, only torch can be meant.
    """
    if os.environ.get(BACKEND) or importlib.util.find_spec("keras") is None:
        return {}
    config = getattr(sys.modules.get("keras"), "config", None)
    if config is not None:
        # Chosen in this process, by `keras.config.set_backend` perhaps.
        return {BACKEND: config.backend()}
    return {} if importlib.util.find_spec(_configured()) else {BACKEND: "torch"}


def is_torch() -> bool:
    """True where Keras is told to run on torch; where a file of the user's tells it, nobody knows as yet."""
    return os.environ.get(BACKEND) == "torch"


def _configured() -> str:
    """The package of the backend that Keras' settings file names."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    try:
        settings = json.loads((Path(home) / "keras.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    named = settings.get("backend") if isinstance(settings, dict) else None
    return named if isinstance(named, str) and named.isidentifier() else "tensorflow"
