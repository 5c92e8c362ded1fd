"""Programs that a part starts: autobatch's own commands, and small ones on the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from on_gpu_parts import device

TARGETS = Path(__file__).parent / "targets"


def target(name: str) -> str:
    return str(TARGETS / f"{name}.py")


def run_python(
    *arguments: str, seconds: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A Python process, ended after `seconds` with exit code 124."""
    command = [sys.executable, *arguments]
    merged = {**os.environ, **(environment or {})}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=max(1.0, seconds), env=merged, check=False
        )
    except subprocess.TimeoutExpired as expired:
        # Bytes also in text mode.
        output, errors = (
            text.decode(errors="replace") if isinstance(text, bytes) else text or ""
            for text in (expired.stdout, expired.stderr)
        )
        return subprocess.CompletedProcess(command, 124, output, errors)


def probe(*arguments: str, seconds: float) -> dict[str, Any]:
    """`autobatch probe ARGUMENTS --json`: its answer or error, its time, the processes it started."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as processes:
        begin = time.monotonic()
        ended = run_python(
            *("-m", "autobatch", "probe", "--json", *arguments),
            seconds=min(seconds, device.scale().program_seconds),
            environment={device.PROCESSES: processes.name},
        )
        row: dict[str, Any] = {
            "exit_code": ended.returncode,
            "wall_seconds": round(time.monotonic() - begin, 1),
            "processes": len(Path(processes.name).read_text(encoding="utf-8").splitlines()),
        }
    try:
        return {**row, "answer": json.loads(ended.stdout)}
    except ValueError:
        return {**row, "error": (ended.stderr or ended.stdout)[-1500:]}


def ask(module: str, *arguments: str, seconds: float) -> dict[str, Any]:
    """The JSON object that `python -m on_gpu_parts.MODULE ARGUMENTS` prints last, or its `error`."""
    limit_seconds = min(seconds, device.scale().program_seconds)
    ended = run_python("-m", f"on_gpu_parts.{module}", *arguments, seconds=limit_seconds)
    try:
        answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": f"exit code {ended.returncode}: {ended.stderr[-800:]}"}
    return answer
