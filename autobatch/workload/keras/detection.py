"""Recognizes objects of Keras by their classes. Neither Keras nor torch is imported."""

from __future__ import annotations

import sys
from typing import Any

from autobatch.records.errors import TargetError

# Before version 3, and beside it, Keras is a part of TensorFlow.
_PACKAGES = ("keras", "tf_keras")


def is_model(value: Any) -> bool:
    """True for a Keras model, whatever its backend."""
    return _has_base(value, _PACKAGES, "Model")


def refuse_other_backend(model: Any) -> None:
    """Raises TargetError for a Keras model that does not run on torch; anything else passes."""
    if not is_model(model) or _has_base(model, ("torch",), "Module"):
        return
    version = getattr(sys.modules.get("keras"), "__version__", "")
    raise TargetError(
        f"the Keras model runs on the {_backend(model)} backend, not on torch",
        code="keras_backend",
        facts=(f"it is a {type(model).__name__} of {type(model).__module__}",)
        + ((f"Keras {version}",) if version else ()),
        hint="autobatch measures torch: set the environment variable `KERAS_BACKEND=torch` before Keras 3 is "
        "imported",
    )


def refuse_batches(data: Any) -> None:
    """Raises TargetError for data that comes in batches of its own: a PyDataset, a tf.data.Dataset."""
    if _has_base(data, _PACKAGES, "PyDataset") or _has_base(data, _PACKAGES, "Sequence"):
        kind = f"`{type(data).__name__}` is a Keras PyDataset"
    elif _has_base(data, ("tensorflow",), "DatasetV2"):
        kind = f"`{type(data).__name__}` is a dataset of TensorFlow"
    else:
        return
    raise TargetError(
        f"{kind}, which makes its batches itself",
        code="own_batches",
        hint="give the arrays as `(x, y)`, or a torch Dataset of single samples, so that batches of any size "
        "can be made",
    )


def _has_base(value: Any, packages: tuple[str, ...], name: str) -> bool:
    return any(
        base.__name__ == name and base.__module__.split(".")[0] in packages for base in type(value).__mro__
    )


def _backend(model: Any) -> str:
    keras = sys.modules.get("keras")
    config = getattr(keras, "config", None)
    if config is None or type(model).__module__.split(".")[0] == "tf_keras":
        return "tensorflow"
    return str(config.backend())
