"""Part 2: `probe` of three examples and two scripts, and the memory that is left afterwards."""

from __future__ import annotations

import importlib.util
import sys

from autobatch.devices import open_backend
from on_gpu_parts import device, programs
from on_gpu_parts.report import Report

EXAMPLES = ("charlm", "digits", "cnn")
SCRIPTS = ("script_mlp", "script_charlm")


def run(report: Report) -> None:
    device.prepare()
    backend = open_backend(device.name())
    backend.warm_up()
    for name in (*EXAMPLES, *SCRIPTS):
        if name == "digits" and importlib.util.find_spec("sklearn") is None:
            report.add(target=name, skipped="scikit-learn is not installed")
            continue
        free_bytes = backend.describe().free_bytes or 0
        row = programs.probe(*_arguments(name), seconds=report.seconds_left)
        left_bytes = free_bytes - (backend.describe().free_bytes or 0)
        report.add(target=name, left_bytes=left_bytes, **row)
        if row["exit_code"]:
            report.fail(f"{name}: exit code {row['exit_code']}")


def _arguments(name: str) -> tuple[str, ...]:
    options = ("--budget", device.scale().budget)
    if name in SCRIPTS:
        return (*options, "--", sys.executable, programs.target(name))
    return (programs.target(name), "--fresh", "--device", device.name(), *options)
