"""Part 1: the contract of a backend, the GPU that CUDA_VISIBLE_DEVICES leaves, another process's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from matrix import read_report

from on_gpu_parts import device, programs
from on_gpu_parts.report import Report

# For what follows the suite.
RESERVE_SECONDS = 20.0
ROOT = Path(__file__).resolve().parents[2]
SUITE = str(ROOT / "tests" / "contract" / "test_backends.py")
# Without the settings of pyproject.toml, which name plugins that may be missing.
OPTIONS = ("-c", os.devnull, f"--rootdir={ROOT}", "--import-mode=importlib", "-p", "no:cacheprovider", "-v")
DESCRIBE = (
    "import json\nfrom autobatch.devices import open_all\n"
    "print(json.dumps([[each.kind, each.uuid] for each in (one.describe() for one in open_all())]))"
)
HOLD = (
    "import sys, torch\nfrom on_gpu_parts import device\n"
    "held = torch.ones(int(sys.argv[1]), dtype=torch.uint8, device=device.prepare())\n"
    "torch.accelerator.synchronize(); print('holding', flush=True); sys.stdin.read()"
)


def run(report: Report) -> None:
    suite = _suite(report.seconds_left - RESERVE_SECONDS)
    report.add(check="contract suite", **suite)
    if suite["exit_code"]:
        failed = ", ".join(suite.get("failed", ()))
        report.fail(f"contract suite: exit code {suite['exit_code']}, failed: {failed or 'unknown'}")
    report.add(check="a second process that holds memory", **_other_process())
    if device.is_gpu():
        for visible in _visible_choices():
            report.add(check="CUDA_VISIBLE_DEVICES", visible=visible, devices=_devices(visible))


def _suite(seconds: float) -> dict[str, Any]:
    subjects = "cuda" if device.is_gpu() else "testdev or simulated"
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "report.xml"
        ended = programs.run_python(
            *("-m", "pytest", *OPTIONS, "-k", subjects, f"--junitxml={xml}", SUITE), seconds=seconds
        )
        if not xml.exists():
            # Cut off: the lines of the tests that have ended.
            return {"exit_code": ended.returncode, "error": (ended.stdout + ended.stderr)[-6000:]}
        counted = read_report(xml)
        output = ended.stdout[-6000:] if counted["failed"] else ""
        return {"exit_code": ended.returncode, **counted, "output": output}


def _other_process() -> dict[str, Any]:
    """How much less is free while another process holds memory, and whether the driver names it."""
    from autobatch.devices import open_backend

    device.prepare()
    backend = open_backend(device.name())
    backend.warm_up()
    before = backend.describe().free_bytes or 0
    held_bytes = device.scale().held_bytes
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(held_bytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    started = bool(holder.stdout.readline())
    during = backend.describe()
    holder.communicate()
    return {
        "started": started,
        "held_bytes": held_bytes,
        "free_fell_bytes": before - (during.free_bytes or 0),
        "named": holder.pid in [user.pid for user in during.memory_users],
        "users": len(during.memory_users),
        "notes": list(during.notes),
    }


def _visible_choices() -> list[str]:
    """No GPU, this one as it is named here, and this one by its UUID, which a slice under MIG lacks."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return ["", named, f"GPU-{torch.cuda.get_device_properties(0).uuid}"]


def _devices(visible: str) -> Any:
    """The devices that a process with this CUDA_VISIBLE_DEVICES has, or its error."""
    ended = programs.run_python("-c", DESCRIBE, seconds=60, environment={"CUDA_VISIBLE_DEVICES": visible})
    return json.loads(ended.stdout) if ended.returncode == 0 else ended.stderr[-800:]
