"""A training command run with the answer of its measurement, from the cache where nothing has changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from autobatch._version import __version__
from autobatch.devices import host
from autobatch.records.limits import Limits
from autobatch.scripts.command import Command
from autobatch.scripts.probe import ScriptAnswer
from autobatch.scripts.process import injection
from autobatch.storage import cache_folder
from autobatch.workload import source_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A command to execute, the change that its process makes in the code, and a line about both."""

    command: Command
    in_code: dict[str, object] | None
    summary: str


def tuned(answer: ScriptAnswer) -> Tuned:
    """The command of an answer."""
    recommended = answer.recommendation
    rate = answer.application.learning_rate if answer.application.rate_flags else None
    size = f"batch size {recommended.batch_size:,}"
    return Tuned(
        command=answer.application.command,
        in_code=answer.in_code,
        summary=size if rate is None else f"{size}, learning rate {rate:.3g}",
    )


def untouched(command: Command) -> Tuned:
    """The command as it was given; a placeholder takes the size that it names."""
    size = command.placeholder_size
    return Tuned(command=command if size is None else command.filled(size), in_code=None, summary="")


def execute(tuned: Tuned) -> NoReturn:
    """Become the command: its streams, its signals and its exit status are its own. Raises OSError."""
    settings = {"apply": tuned.in_code}
    injected = {} if tuned.in_code is None else injection(tuned.command, settings)
    environment = {**os.environ, **tuned.command.environment, **injected}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(tuned.command.words[0], tuned.command.words, environment)


def cached(command: Command, limits: Limits, *, applies_rate: bool) -> Tuned | None:
    """The command of an earlier measurement, unless a source that it imported has changed since."""
    path = _path(command, limits, applies_rate=applies_rate)
    try:
        kept = json.loads(path.read_text())
        changed = any(_digest(source) != digest for source, digest in kept["sources"].items())
        return None if changed else msgspec.convert(kept["tuned"], Tuned)
    except (OSError, ValueError, KeyError):
        # An entry that can't be read costs a measurement, never the training.
        return None


def keep(command: Command, limits: Limits, answer: ScriptAnswer, *, applies_rate: bool) -> None:
    """Keep the command for the next time. A cache that can't be written is no reason to fail."""
    path = _path(command, limits, applies_rate=applies_rate)
    sources = {source: _digest(source) for source in answer.sources}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        unfinished.write_text(json.dumps({"sources": sources, "tuned": asdict(tuned(answer))}))
        unfinished.replace(path)


def _path(command: Command, limits: Limits, *, applies_rate: bool) -> Path:
    """The file of an answer, named by all that it depends on but the sources, which it names itself."""
    program = shutil.which(command.words[0]) or command.words[0]
    parts: dict[str, Any] = {
        "command": asdict(command),
        "folder": os.getcwd(),
        "program": [os.path.realpath(program), _changed_ns(program)],
        "limits": asdict(limits),
        "applies_rate": applies_rate,
        "autobatch": __version__,
        "processor": [host.cpu_name(), host.usable_processors()],
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    name = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return cache_folder.find_folder() / "scripts" / f"{name}.json"


def _digest(path: str) -> str:
    try:
        return source_files.file_digest(path)
    except OSError:
        return ""


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
