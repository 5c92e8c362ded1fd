"""The parent's side: starts the processes that train and search, and tells how they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
TOOL = "autobatch"
# The same on a model that can't be traced.
UNTRACED = "autobatch_untraced"
_TIMEOUT_SECONDS = 1800.0
# Settings of the allocator and of threads would make this machine's figures another's.
_FOREIGN = ("MALLOC_", "GLIBC_", "LD_PRELOAD", "KMP_", "GOMP_", "OMP_", "MKL_")


def survivals(workload: str, size: int, memory_bytes: int, count: int, jobs: int) -> Iterator[dict[str, Any]]:
    """The outcomes of `count` fresh processes, `jobs` at once: `survived` and `error`.

    Whoever stops asking has asked for no more than `jobs` too many.
    """
    with ThreadPoolExecutor(jobs) as pool:
        for begin in range(0, count, jobs):
            batch = min(jobs, count - begin)
            yield from pool.map(_survival, [workload] * batch, [size] * batch, [memory_bytes] * batch)


def _survival(workload: str, size: int, memory_bytes: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "ceilings.survive", workload, str(size), str(memory_bytes)]
    ended = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
    )
    lines = ended.stdout.splitlines()
    if ended.returncode == 0 and lines:
        said: dict[str, Any] = json.loads(lines[-1])
        return said
    if ended.returncode == 1:
        # Errors of the training are told in JSON: this is a mistake of the benchmark, not a death.
        raise RuntimeError(f"{' '.join(command)}:\n{ended.stderr[-2000:]}")
    return {"survived": False, "error": _told(ended)}


def answer(method: str, workload: str, memory_bytes: int) -> dict[str, Any]:
    """One answer of a method, with what it cost.

    `batch_size`: None where there was none. `wall_seconds`: the whole process; `search_seconds`: without its
    imports (for autobatch with those of its workers). `steps` and `samples` are of training, counted in
    the model's forward pass; `tried` has them by size, in order. `trials`: how many autobatch made.
    `crash`: how the process ended, if badly.
    """
    with tempfile.TemporaryDirectory() as folder:
        log, result = Path(folder) / "log", Path(folder) / "result.json"
        environment = _environment() | {"CEILING_WORKLOAD": workload, "CEILING_LOG": str(log)}
        environment |= {"CEILING_UNTRACED": "1"} if method == UNTRACED else {}
        of_tool = method in (TOOL, UNTRACED)
        command = _probe(memory_bytes) if of_tool else _peer(method, memory_bytes, result)
        begin = time.perf_counter()
        ended = subprocess.run(
            command,
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        wall_seconds, now = time.perf_counter() - begin, time.time()
        passes = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        said = json.loads(result.read_text()) if result.exists() else {}
    found = _from_probe(ended) if of_tool else _from_peer(said, now)
    error = found.pop("error", "")
    return {
        "batch_size": None,
        "search_seconds": None,
        **found,
        "wall_seconds": round(wall_seconds, 2),
        **_counted([(what, int(samples)) for what, samples in passes]),
        "crash": (error or _told(ended)) if ended.returncode != 0 else "",
    }


def _probe(memory_bytes: int) -> list[str]:
    target = str(BENCHMARKS / "ceilings" / "counted.py")
    options = ["--objective", "memory", "--device", "cpu", "--no-check", "--fresh", "--json"]
    # Its own budget would end the search: the others have none.
    limits = ["--memory-limit", str(memory_bytes), "--budget", "600s"]
    return [sys.executable, "-m", TOOL, "probe", target, *limits, *options]


def _peer(method: str, memory_bytes: int, result: Path) -> list[str]:
    return [sys.executable, "-m", "ceilings.peers", method, str(memory_bytes), str(result)]


def _from_probe(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    try:
        said = json.loads(ended.stdout)
    except ValueError:
        return {}
    if not said["ok"]:
        return {"error": f"{said['error']['code']}: {said['error']['message']}"}
    ceiling, environment = said["ceiling"], said["environment"] or {}
    return {
        "batch_size": said["batch_size"],
        "search_seconds": environment.get("elapsed_seconds"),
        "trials": len(said["trials"]),
        "ceiling": ceiling,
        "warnings": said.get("warnings", []),
    }


def _from_peer(said: dict[str, Any], now: float) -> dict[str, Any]:
    found: dict[str, Any] = {key: said[key] for key in ("batch_size", "error") if key in said}
    if "began" in said:
        found["search_seconds"] = round(now - said["began"], 2)
    return found


def _counted(passes: list[tuple[str, int]]) -> dict[str, Any]:
    training = [samples for what, samples in passes if what == "train"]
    tried: list[list[int]] = []
    for samples in training:
        if tried and tried[-1][0] == samples:
            tried[-1][1] += 1
        else:
            tried.append([samples, 1])
    return {
        "steps": len(training),
        "samples": sum(training),
        "evaluation_samples": sum(samples for what, samples in passes if what == "evaluate"),
        "tried": tried,
    }


def _told(ended: subprocess.CompletedProcess[str]) -> str:
    """`SIGSEGV`, or `exit 1: ` and the last line that was said."""
    if ended.returncode < 0:
        return signal.Signals(-ended.returncode).name
    last = (ended.stderr.strip().splitlines() or [""])[-1]
    return f"exit {ended.returncode}: {last[:160]}"


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    paths = [str(BENCHMARKS.parent), str(BENCHMARKS), *kept.get("PYTHONPATH", "").split(os.pathsep)]
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}
