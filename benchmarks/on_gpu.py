"""Everything that one NVIDIA machine can tell of autobatch in eight minutes, most valuable first.

    python benchmarks/on_gpu.py --out FOLDER [--parts NAME ...] [--wheels FOLDER] [--minutes 8]
    python benchmarks/on_gpu.py --write-readme          # the devices of README.md, from the recorded results

contract   the contract of a backend on `cuda`, CUDA_VISIBLE_DEVICES, a second process that holds memory
probes     `probe` of three examples and two scripts, and the memory that is left afterwards
ceilings   the ceilings of six workloads under 4 GiB, and the truth from fresh processes
plans      40 frozen predictions against the allocator's peaks
curves     step time over batch size of ten models
regrets    the answer on two tasks against every size and learning rate of a grid

It runs from a source tree, without a network. torch, numpy, click, psutil, nvidia-ml-py, cloudpickle,
hypothesis and pytest must be installed; the wheels of --wheels provide the rest and nothing is installed.
Each part writes OUT/NAME.json as it goes; a part for which no time is left is skipped. OUT/on_gpu.tar.gz has
all of them. Where there is no GPU, `--device testdev --minutes 60` runs it on the device of the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
# Seconds at most of each part where all have eight minutes, in the order of their value.
PARTS = {"contract": 90, "probes": 120, "ceilings": 180, "plans": 120, "curves": 60, "regrets": 120}
MINUTES = 8.0
# A part is not started with less time than that.
LEAST_SECONDS = 10.0
# The first process that imports torch reads gigabytes from the disk.
FACTS_SECONDS = 90.0
KILL_SECONDS = 10.0
FACTS = """
import json, platform, torch
facts = {'python': platform.python_version(), 'torch': torch.__version__, 'cuda': torch.version.cuda}
if torch.cuda.is_available():
    properties = torch.cuda.get_device_properties(0)
    facts |= {'name': properties.name, 'total_bytes': properties.total_memory}
    try:
        import pynvml
        pynvml.nvmlInit()
        facts['driver'] = pynvml.nvmlSystemGetDriverVersion()
    except Exception as error:
        facts['driver_error'] = str(error)
print(json.dumps(facts))
"""
# Libraries write there below HOME, which may be read-only.
CACHES = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def main() -> int:
    options = _options()
    if options.write_readme:
        from on_gpu_parts import readme

        readme.write()
        return 0
    if options.part:
        return _run_part(options.part, options.out, options.seconds)
    return _run_all(options)


def _run_part(name: str, out: Path, seconds: float) -> int:
    """A part in this process."""
    from on_gpu_parts.report import Report

    report = Report(out / f"{name}.json", seconds)
    import_module(f"on_gpu_parts.{name}").run(report)
    report.note(finished=True)
    if not report.problems:
        return 0
    print("; ".join(report.problems))
    return 1


def _run_all(options: argparse.Namespace) -> int:
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site"
        site.mkdir()
        for wheel in sorted(options.wheels.glob("*.whl")) if options.wheels else ():
            zipfile.ZipFile(wheel).extractall(site)
        environment = _environment(Path(scratch), options.device)
        summary: dict[str, Any] = {"device": options.device, "parts": {}, **_facts(environment)}
        print(json.dumps(summary), flush=True)
        if options.device == "cuda" and "name" not in summary["machine"]:
            print("error: torch has no CUDA device here", file=sys.stderr)
            return 2
        for name in options.parts:
            left = 60 * options.minutes - (time.monotonic() - begin)
            seconds = min(PARTS[name] * options.minutes / MINUTES, left)
            state = "skipped: no time left"
            if seconds >= LEAST_SECONDS:
                state = _start_part(name, out, seconds, environment)
            summary["parts"][name] = state
            summary["seconds"] = round(time.monotonic() - begin, 1)
            print(f"{name}: {state} ({summary['seconds']} s)", flush=True)
            (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
            pack(out)
    return int(any(state.startswith("failed") for state in summary["parts"].values()))


def _environment(scratch: Path, device: str) -> dict[str, str]:
    paths = [str(scratch / "site"), str(ROOT), str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **{name: str(scratch / name.lower()) for name in CACHES},
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "ON_GPU_DEVICE": device,
    }


def _facts(environment: dict[str, str]) -> dict[str, Any]:
    """The machine: versions of Python, torch and CUDA, the GPU and its driver."""
    command = [sys.executable, "-c", FACTS]
    try:
        asked = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=FACTS_SECONDS, check=False
        )
        machine = json.loads(asked.stdout) if asked.returncode == 0 else {"error": asked.stderr[-800:]}
    except subprocess.TimeoutExpired:
        machine = {"error": f"importing torch and asking for the device took over {FACTS_SECONDS:.0f} s"}
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine}


def _start_part(name: str, out: Path, seconds: float, environment: dict[str, str]) -> str:
    """Run a part in a process of its own, so that it ends in time; return how it ended."""
    command = [sys.executable, __file__, "--part", name, "--out", str(out), "--seconds", str(seconds)]
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except BaseException as error:
            # Workers of autobatch end with their parent; the group has the other programs of the part.
            os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # a driver that hangs keeps its process
                process.wait(KILL_SECONDS)
            if not isinstance(error, subprocess.TimeoutExpired):  # Ctrl-C, which the group doesn't get
                raise
            return "cut off: its time was over"
    if code:
        with open(out / f"{name}.log", encoding="utf-8") as log:
            lines = [line for line in log.read().splitlines() if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        return f"failed: exit code {code}: {(named or lines or [''])[-1][:300]}"
    return "finished"


def pack(out: Path) -> Path:
    """One archive of everything in the folder."""
    archive = out / "on_gpu.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(out.iterdir()):
            if path.suffix in (".json", ".log"):
                packed.add(path, arcname=path.name)
    return archive


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the folder for the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for the packages that are missing")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for all parts")
    parser.add_argument("--device", choices=("cuda", "testdev"), default="cuda")
    parser.add_argument("--write-readme", action="store_true", help="only write the table of devices")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.out is None and not options.write_readme:
        parser.error("the following arguments are required: --out")
    return options


if __name__ == "__main__":
    sys.exit(main())
