"""The framework that a model is written for, by the module of its classes; nothing is imported."""

from __future__ import annotations

_NAMES = {
    "keras": "keras",
    "lightning": "lightning",
    "pytorch_lightning": "lightning",
    "transformers": "transformers",
}


def framework_of(model: object) -> str:
    """`keras`, `lightning` or `transformers`; empty for a model of plain PyTorch."""
    packages = (base.__module__.partition(".")[0] for base in type(model).__mro__)
    return next((_NAMES[package] for package in packages if package in _NAMES), "")
