"""Tests of Keras are left out where it is missing, or older than the extra asks for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _is_supported() -> bool:
    try:
        major, minor = version("keras").split(".")[:2]
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= (3, 5)


collect_ignore_glob = [] if _is_supported() else ["test_*.py", "../loops/test_keras_loop.py"]
