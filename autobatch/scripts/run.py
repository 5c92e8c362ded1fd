"""A training command run with the answer of its measurement, from the cache where nothing has changed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import msgspec

from autobatch._version import __version__
from autobatch.devices import host, nvml
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.scripts.command import Command
from autobatch.scripts.probe import ScriptAnswer
from autobatch.scripts.process import injection
from autobatch.storage import cache, cache_folder, codec, result_files
from autobatch.workload import source_files

# Bytes. The content of larger files is not compared, but their size and date.
_LARGE_FILE = 1 << 20


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
    in_code = answer.application.in_code
    return Tuned(
        command=answer.application.command,
        in_code=None if in_code is None else dict(in_code),
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


def cached(command: Command, limits: Limits, recipe: Mapping[str, object]) -> Tuned | None:
    """The command of an earlier measurement; None where a file that it depends on has changed since.

    `recipe`: the options that the answer depends on, beside its limits. The files are the sources it imports,
    its packages, and the data it reads. The answer also has to fit into the memory of today.
    """
    name = _entry_name(command, limits, recipe)
    try:
        text = result_files.read_text(cache_folder.find_folder() / name)
        kept = json.loads(text)["script"]
        answer = codec.parse(text)
        if any(_stamp(path) != stamp for path, stamp in kept["files"].items()):
            return None
        if not cache.still_fits(answer, _with_current_memory(answer.device)):
            return None
        return msgspec.convert(kept["tuned"], Tuned)
    except (AutobatchError, OSError, ValueError, KeyError, TypeError):
        # An entry that can't be read costs a measurement, never the training.
        return None


def keep(command: Command, limits: Limits, recipe: Mapping[str, object], answer: ScriptAnswer) -> None:
    """Keep the command for the next time. A cache that can't be written is no reason to fail."""
    name = _entry_name(command, limits, recipe)
    script = {"files": {path: _stamp(path) for path in answer.files}, "tuned": asdict(tuned(answer))}
    document = json.loads(codec.render(answer.recommendation)) | {"script": script}
    with suppress(AutobatchError, OSError):
        cache.write_entry(name, json.dumps(document))


def _entry_name(command: Command, limits: Limits, recipe: Mapping[str, object]) -> str:
    """The file of an answer, named by all that it depends on but the files, which it names itself."""
    program = shutil.which(command.words[0]) or command.words[0]
    parts: dict[str, Any] = {
        **recipe,
        "command": asdict(command),
        "folder": os.getcwd(),
        "program": [os.path.realpath(program), _stamp(program)],
        "autobatch": __version__,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "gpus": [[gpu.name, gpu.uuid, gpu.driver] for gpu in nvml.read_all()],
    }
    processor = Device(kind="cpu", index=0, name=host.cpu_name(), threads=host.usable_processors())
    return cache.name_of({}, limits, processor, parts, os.environ)


def _with_current_memory(device: Device) -> Device:
    """The device of an answer as it is today: the processor's memory changes with other processes."""
    if device.kind != "cpu" or device.limit_bytes is None:
        return device
    available_bytes = host.default_limit(host.read_memory())
    return replace(device, free_bytes=None, limit_bytes=available_bytes)


def _stamp(path: str) -> str:
    """The content of a small file as a digest, the size and the date of a large one; empty for none."""
    try:
        status = os.stat(path)
        if status.st_size > _LARGE_FILE:
            return f"{status.st_size} {status.st_mtime_ns}"
        return source_files.file_digest(path)
    except OSError:
        return ""
