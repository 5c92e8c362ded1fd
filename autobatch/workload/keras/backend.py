"""The backend of Keras in a worker. Keras itself is not imported here."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

BACKEND = "KERAS_BACKEND"


def worker_environment() -> dict[str, str]:
    """KERAS_BACKEND as a worker needs it, empty where Keras finds it by itself.

    At its first import Keras writes TensorFlow into its settings file as the default. Where TensorFlow isn't
    installed, only torch can be meant.
    """
    if os.environ.get(BACKEND) or importlib.util.find_spec("keras") is None:
        return {}
    config = getattr(sys.modules.get("keras"), "config", None)
    if config is not None:
        # The backend of this process, perhaps by `keras.config.set_backend`.
        return {BACKEND: config.backend()}
    return {} if importlib.util.find_spec(_configured()) else {BACKEND: "torch"}


def is_torch() -> bool:
    """True where the environment sets Keras to torch. A file of the user's may still set it later."""
    return os.environ.get(BACKEND) == "torch"


def _configured() -> str:
    """The package of the backend that Keras' settings file names."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    try:
        settings = json.loads((Path(home) / "keras.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    name = settings.get("backend") if isinstance(settings, dict) else None
    return name if isinstance(name, str) and name.isidentifier() else "tensorflow"
